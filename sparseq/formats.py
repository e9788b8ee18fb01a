"""L1: sparse patterns and masks: the positions of the kept entries, without their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._inputs import check_dense
from sparseq.ops.host import transpose_csr
from sparseq.ops.spmm import row_indices

INT32_MAX = 2**31 - 1
# element size in bytes -> the integer dtype that views the same bits
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class CSRPattern:
    """Checked compressed-sparse-row pattern of an (m, k) matrix, with its transpose.

    Attributes:
        row_ptr: (m + 1) int32, non-decreasing, from 0 to nnz.
        col_idx: (nnz) int32, strictly increasing within each row, in 0..k-1.
        row_ptr_t, col_idx_t: the same for the (k, m) transpose.
        perm: (nnz) int32, transposed order -> CSR order: values_t = values[perm].
    """

    row_ptr: Tensor
    col_idx: Tensor
    row_ptr_t: Tensor
    col_idx_t: Tensor
    perm: Tensor

    @classmethod
    def from_csr(cls, row_ptr: Tensor, col_idx: Tensor, columns: int) -> CSRPattern:
        """From the CSR tensors of an (m, columns) matrix; ValueError if they are not valid."""
        check_csr(row_ptr, col_idx, columns)
        row_ptr, col_idx = row_ptr.to(torch.int32), col_idx.to(torch.int32)
        row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
        if col_idx.is_meta:
            pointers = row_ptr.new_empty(columns + 1)
            return cls(row_ptr, col_idx, pointers, col_idx.clone(), col_idx.clone())
        transposed = transpose_csr(row_ptr.cpu().numpy(), col_idx.cpu().numpy(), columns)
        return cls(row_ptr, col_idx, *(torch.from_numpy(t).to(col_idx.device) for t in transposed))

    @classmethod
    def from_mask(cls, mask: Tensor) -> CSRPattern:
        """From an (m, k) bool tensor, True = kept."""
        check_dense("CSRPattern.from_mask", "mask", mask)
        got = f"{mask.dtype} {tuple(mask.shape)}"
        valid = mask.dim() == 2 and mask.dtype == torch.bool
        require(valid, "CSRPattern.from_mask", "mask", "must be a bool matrix", got)
        return cls.from_csr(_pointers(mask.sum(1)), mask.nonzero()[:, 1], mask.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(m, k)."""
        return self.row_ptr.shape[0] - 1, self.row_ptr_t.shape[0] - 1

    @property
    def nnz(self) -> int:
        """Number of kept entries."""
        return self.col_idx.shape[0]

    @property
    def tensors(self) -> list[Tensor]:
        """The five tensors in the order in which the ops expect them."""
        return [self.row_ptr, self.col_idx, self.row_ptr_t, self.col_idx_t, self.perm]

    def rows(self) -> Tensor:
        """(nnz) int64: the row of each entry."""
        return row_indices(self.row_ptr, self.col_idx)

    def mask(self) -> Tensor:
        """(m, k) bool, the inverse of `from_mask`."""
        out = torch.zeros(self.shape, dtype=torch.bool, device=self.col_idx.device)
        out[self.rows(), self.col_idx.long()] = True
        return out

    def gather(self, matrix: Tensor) -> Tensor:
        """(nnz) entries of an (m, k) matrix, in CSR order."""
        return matrix[self.rows(), self.col_idx.long()]

    def map(self, convert: Callable[[Tensor], Tensor]) -> CSRPattern:
        """The pattern with `convert` (a move to a device) applied to each of its tensors."""
        return CSRPattern(*(convert(tensor) for tensor in self.tensors))


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


def check_csr(row_ptr: Tensor, col_idx: Tensor, columns: int) -> None:
    """ValueError that names the tensor and the rule unless the two form a CSR pattern."""
    for name, tensor in (("row_ptr", row_ptr), ("col_idx", col_idx)):
        check_dense("CSRPattern", name, tensor)
        integral = tensor.dim() == 1 and not tensor.is_floating_point()
        got = f"{tensor.dtype} {tuple(tensor.shape)}"
        _require(integral and tensor.dtype != torch.bool, name, "must be a vector of integers", got)
    _require(row_ptr.numel() > 0, "row_ptr", "must have one entry more than there are rows", "none")
    got = f"{col_idx.numel()} entries, {columns} columns"
    fits = max(col_idx.numel(), columns) <= INT32_MAX
    _require(fits, "col_idx", "must fit in 32-bit indices", got)
    if row_ptr.is_meta:
        return
    ends, nnz = (int(row_ptr[0]), int(row_ptr[-1])), col_idx.numel()
    _require(ends == (0, nnz), "row_ptr", f"must go from 0 to {nnz}", ends)
    increasing = bool((row_ptr.diff() >= 0).all())
    _require(increasing, "row_ptr", "must not decrease", "an entry below its predecessor")
    if nnz:
        _check_ids(row_ptr, col_idx, columns)


def _check_ids(row_ptr: Tensor, col_idx: Tensor, columns: int) -> None:
    low, high = int(col_idx.min()), int(col_idx.max())
    rule = f"must lie in 0..{columns - 1}"
    _require(low >= 0 and high < columns, "col_idx", rule, f"{low}..{high}")
    key = row_indices(row_ptr, col_idx) * columns + col_idx
    increasing = bool((key.diff() > 0).all())
    rule = "must increase strictly within each row"
    _require(increasing, "col_idx", rule, "an entry not above its predecessor")


def _require(condition: bool, argument: str, rule: str, got: object) -> None:
    require(condition, "CSRPattern", argument, rule, got)
