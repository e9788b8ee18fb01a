"""Sparse linear layers: only kept weights take memory, also in gradients and optimizer states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseq.formats import CSRPattern
from sparseq.nn.affine import Affine
from sparseq.nn.layer_types import layer_type
from sparseq.nn.sparse.patterned import (
    PatternedLayer,
    build_with_store,
    check_pattern,
    checked_mask,
    empty_pattern,
    stored_weights,
    with_store,
)
from sparseq.nn.twins import linear_of, match_twin
from sparseq.ops.spmm import dense_matrix, spmm


def fold_kept_rows(layer: Any, affine: Affine) -> Tensor | None:
    """Fold into kept entries (nnz) or blocks (nnz, rows, columns)."""
    if affine.matrix is not None:
        return None
    values: Tensor = layer.kept_values().double()
    rows = layer.pattern.rows()
    if values.dim() == 1:
        return values * affine.scale[rows]
    return values * affine.scale.view(-1, values.shape[1])[rows][:, :, None]


def _arguments(layer: SparseLinear) -> dict[str, Any]:
    """The constructor's arguments in a file, where the pattern is part of the state."""
    bias = {} if layer.bias is not None else {"bias": False}
    sizes = {"in_features": layer.in_features, "out_features": layer.out_features}
    return with_store({**sizes, **bias}, layer)


def _build(in_features: int, out_features: int, bias: bool = True) -> SparseLinear:
    pattern = empty_pattern(out_features, in_features)
    return SparseLinear(in_features, out_features, pattern, bias=bias)


@layer_type(
    twin=nn.Linear,
    op="spmm",
    fold=fold_kept_rows,
    weights=stored_weights,
    break_even=("Linear", "Linear"),
    arguments=_arguments,
    build=build_with_store(_build),
)
class SparseLinear(PatternedLayer):
    """Sparse linear layer, y = A x + b with A in CSR; the twin of `nn.Linear`.

        y[n, r] = b[r] + sum over p in row r of values[p] * x[n, col_idx[p]]

    The entries of the state_dict are `values`, `row_ptr`, `col_idx` and `bias`. Loading a
    state_dict with another pattern replaces the layer's; from that of an `nn.Linear` (`weight`) the
    kept entries are loaded.

    Args:
        in_features, out_features: sizes of x and y.
        pattern: of shape (out_features, in_features).
        values: (nnz) kept weights in CSR order, copied; if None, they and the bias are drawn from
            U(-b, b) with b = 1 / sqrt(kept inputs of the row).
        bias: add a bias of (out_features), zero if values are passed.
        device, dtype: of the parameters; by default those of `values`, or the pattern's device and
            torch's default dtype.

    Attributes:
        values: (nnz) parameter.
        row_ptr, col_idx: int32, copies; row_ptr_t, col_idx_t, perm: their transpose, not saved.

    Raises:
        ValueError: a pattern or values of another shape, values that are not floating point.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pattern: CSRPattern,
        values: Tensor | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_pattern("SparseLinear", pattern, (out_features, in_features))
        self.in_features, self.out_features = in_features, out_features
        self._register(pattern, values, bias, device, dtype)
        if values is None:
            self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw values and bias from U(-b, b), b = 1 / sqrt(kept inputs of the row)."""
        self._draw_by_inputs(generator)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return self.store.product(self, spmm, x)

    @classmethod
    def from_dense(cls, module: nn.Linear, mask: Tensor | None = None) -> SparseLinear:
        """A layer with the kept weights of a dense one; `to_dense` restores these exactly.

        Args:
            module: an `nn.Linear`; it is not modified.
            mask: bool of the weight's shape, True = keep; by default keeps weights other than 0.

        Raises:
            ValueError: another type of layer, a mask of another shape or dtype.
        """
        keep = checked_mask("SparseLinear.from_dense", module, nn.Linear, mask)
        pattern = CSRPattern.from_mask(keep)
        values = pattern.gather(module.weight.detach())
        layer = cls(
            module.in_features, module.out_features, pattern, values, module.bias is not None
        )
        match_twin(layer, module)
        return layer

    def to_dense(self) -> nn.Linear:
        """The `nn.Linear` with zeros at the dropped entries; parameters are copied."""
        return linear_of(self.dense_weight().detach(), self)

    def dense_weight(self) -> Tensor:
        """(out_features, in_features), zero at dropped entries; differentiable in the kept ones."""
        return dense_matrix(self.kept_values(), self._pattern_tensors())

    def _matrix(self, weight: Tensor) -> Tensor:
        self._check_weight(weight, (self.out_features, self.in_features))
        return weight
