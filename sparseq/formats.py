"""L1: sparse patterns and masks: the positions of the kept entries, without their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._inputs import check_dense
from sparseq.ops._pattern import INT32_MAX, check_csr, row_indices
from sparseq.ops._trust import trust
from sparseq.ops.geometry import ConvGeometry
from sparseq.ops.host import transpose_csr
from sparseq.ops.sparse_conv_chain import tap_order

__all__ = ["BITS", "INT32_MAX", "CSRPattern", "check_mask", "check_masks"]

# element size in bytes -> the integer dtype that views the same bits
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class CSRPattern:
    """Compressed-sparse-row pattern of an (m, k) matrix, with its transpose; it never changes.

    The tensors are copied and checked here, once, and never given away: every attribute is a copy.
    Ops that get the pattern itself trust it; they check the tensors of any other one at every call.

    Args:
        row_ptr: (m + 1) integers, non-decreasing, from 0 to nnz.
        col_idx: (nnz) integers, strictly increasing within each row, in 0..k-1.
        row_ptr_t, col_idx_t: the same for the (k, m) transpose.
        perm: (nnz) integers, transposed order -> CSR order: values_t = values[perm].

    Attributes:
        row_ptr, col_idx, row_ptr_t, col_idx_t, perm: copies of the tensors, int32.

    Raises:
        ValueError: tensors that are not a pattern and its transpose, or not on one device.
    """

    _tensors: list[Tensor]
    _orders: dict[tuple[int, int], list[Tensor]]
    _sent: tuple[Tensor, Tensor]

    def __init__(
        self, row_ptr: Tensor, col_idx: Tensor, row_ptr_t: Tensor, col_idx_t: Tensor, perm: Tensor
    ) -> None:
        transposed = {"row_ptr_t": row_ptr_t, "col_idx_t": col_idx_t, "perm": perm}
        tensors = _checked(row_ptr, col_idx, len(row_ptr_t) - 1)
        for (name, got), own in zip(transposed.items(), tensors[2:], strict=True):
            is_own = got.device == own.device and got.shape == own.shape
            is_own = is_own and (own.is_meta or bool((got == own).all()))
            rule = "must be that of the pattern's transpose, on its device"
            require(is_own, "CSRPattern", name, rule, f"{got.dtype} {tuple(got.shape)}")
        self._hold(tensors)

    @classmethod
    def from_csr(cls, row_ptr: Tensor, col_idx: Tensor, columns: int) -> CSRPattern:
        """From the CSR tensors of an (m, columns) matrix; ValueError if they are not valid."""
        return cls._of(_checked(row_ptr, col_idx, columns))

    @classmethod
    def from_mask(cls, mask: Tensor) -> CSRPattern:
        """From an (m, k) bool tensor, True = kept."""
        check_dense("CSRPattern.from_mask", "mask", mask)
        got = f"{mask.dtype} {tuple(mask.shape)}"
        valid = mask.dim() == 2 and mask.dtype == torch.bool
        require(valid, "CSRPattern.from_mask", "mask", "must be a bool matrix", got)
        return cls.from_csr(_pointers(mask.sum(1)), mask.nonzero()[:, 1], mask.shape[1])

    @classmethod
    def _of(cls, tensors: list[Tensor]) -> CSRPattern:
        """Of checked tensors that nothing else keeps."""
        pattern = cls.__new__(cls)
        pattern._hold(tensors)
        return pattern

    def _hold(self, tensors: list[Tensor]) -> None:
        self._tensors, self._orders = tensors, {}
        if not self.is_meta:
            trust(tensors)

    @property
    def row_ptr(self) -> Tensor:
        """(m + 1) int32, a copy."""
        return self._tensors[0].clone()

    @property
    def col_idx(self) -> Tensor:
        """(nnz) int32, a copy."""
        return self._tensors[1].clone()

    @property
    def row_ptr_t(self) -> Tensor:
        """(k + 1) int32, a copy."""
        return self._tensors[2].clone()

    @property
    def col_idx_t(self) -> Tensor:
        """(nnz) int32, a copy."""
        return self._tensors[3].clone()

    @property
    def perm(self) -> Tensor:
        """(nnz) int32, a copy."""
        return self._tensors[4].clone()

    @property
    def tensors(self) -> list[Tensor]:
        """Copies of the five tensors in the order in which the ops expect them."""
        return [tensor.clone() for tensor in self._tensors]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, k)."""
        return self._tensors[0].shape[0] - 1, self._tensors[2].shape[0] - 1

    @property
    def nnz(self) -> int:
        """Number of kept entries."""
        return self._tensors[1].shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._tensors[0].device

    @property
    def is_meta(self) -> bool:
        """Whether the pattern has only sizes, and no data."""
        return self._tensors[0].is_meta

    @property
    def nbytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.nbytes for tensor in self._tensors)

    def rows(self) -> Tensor:
        """(nnz) int64: the row of each entry."""
        return row_indices(self._tensors[0], self._tensors[1])

    def columns(self) -> Tensor:
        """(nnz) int64: the column of each entry."""
        return self._tensors[1].to(torch.int64)

    def counts(self) -> Tensor:
        """(m) int32: the number of entries of each row."""
        return self._tensors[0].diff()

    def mask(self) -> Tensor:
        """(m, k) bool, the inverse of `from_mask`."""
        out = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
        out[self.rows(), self.columns()] = True
        return out

    def gather(self, matrix: Tensor) -> Tensor:
        """(nnz) entries of an (m, k) matrix, in CSR order."""
        return matrix[self.rows(), self.columns()]

    def to(self, device: Any) -> CSRPattern:
        """The pattern on a device; one without data has none on any device and stays as it is."""
        if self.is_meta or torch.device(device) == self.device:
            return self
        with torch.inference_mode(False):
            return self._of([tensor.to(device) for tensor in self._tensors])

    def without_data(self) -> CSRPattern:
        """The pattern's sizes on the meta device."""
        return self._of([tensor.to("meta") for tensor in self._tensors])

    def equals(self, other: CSRPattern) -> bool:
        """Whether two patterns are the same one; False for those without data."""
        if self.device != other.device or self.is_meta or self.shape != other.shape:
            return False
        return all(map(torch.equal, self._tensors[:2], other._tensors[:2]))

    def tap_order(self, geometry: ConvGeometry) -> list[Tensor]:
        """`sparseq.ops.sparse_conv_chain.tap_order` of a convolution, kept with the pattern."""
        key = (geometry.taps, geometry.groups)
        if key not in self._orders:
            with torch.inference_mode(False):
                order = list(tap_order(self._tensors, geometry))
            row_ptr = self._tensors[0]
            trust(order, row_ptr.data_ptr(), *key, beside=[row_ptr])
            self._orders[key] = order
        return self._orders[key]

    def __copy__(self) -> CSRPattern:
        return self

    def __deepcopy__(self, memo: Any) -> CSRPattern:
        return self

    def __reduce__(self) -> Any:
        # a pickle for another process names memory that must outlive the pickling
        self._sent = (self.row_ptr, self.col_idx)
        return CSRPattern.from_csr, (*self._sent, self.shape[1])


def _checked(row_ptr: Tensor, col_idx: Tensor, columns: int) -> list[Tensor]:
    """The five tensors of a pattern, which share no memory with those from outside."""
    row_ptr, col_idx = _private(row_ptr), _private(col_idx)
    check_csr("CSRPattern", row_ptr, col_idx, columns)
    row_ptr, col_idx = row_ptr.to(torch.int32), col_idx.to(torch.int32)
    if col_idx.is_meta:
        pointers = row_ptr.new_empty(columns + 1)
        return [row_ptr, col_idx, pointers, col_idx.clone(), col_idx.clone()]
    transposed = transpose_csr(row_ptr.cpu().numpy(), col_idx.cpu().numpy(), columns)
    return [row_ptr, col_idx, *(torch.from_numpy(t).to(col_idx.device) for t in transposed)]


def _private(tensor: Tensor) -> Tensor:
    """A contiguous copy that autograd and inference mode know nothing of."""
    with torch.inference_mode(False):
        return tensor.detach().clone(memory_format=torch.contiguous_format)


def check_mask(op: str, argument: str, mask: Any, shape: tuple[int, ...] | None = None) -> None:
    """ValueError that names op and argument unless the mask is a bool tensor (of `shape`)."""
    is_bool = isinstance(mask, Tensor) and mask.dtype == torch.bool
    valid = is_bool and shape in (None, tuple(mask.shape))
    rule = "must be a bool tensor" + ("" if shape is None else f" of shape {shape}")
    got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    require(valid, op, argument, rule, got)
    check_dense(op, argument, mask)


def check_masks(
    op: str, argument: str, masks: Mapping[str, Any], parameters: Mapping[str, Tensor]
) -> None:
    """`check_mask` for masks by parameter name: each must have the shape of its parameter."""
    for name, mask in masks.items():
        rule = f"must name parameters of the model: {', '.join(parameters)}"
        require(name in parameters, op, argument, rule, repr(name))
        check_mask(op, f"{argument}[{name!r}]", mask, tuple(parameters[name].shape))


def _pointers(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
