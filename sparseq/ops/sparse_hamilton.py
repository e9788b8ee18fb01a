"""`sparse_hamilton`: the quaternion linear map with a sparse weight, and its gradients.

    y = W (x) x + b,   W (4, m, k) with only some entries kept         (the map of `hamilton`)

There are two granularities, distinguished by the shape of the values:

- component: each of the 4 m k entries is kept or not. The pattern is that of W viewed as a
  (4 m, k) matrix, rows in the order r, i, j, k; values (nnz).
- quaternion: quaternions are kept or dropped as a unit. The pattern is that of the (m, k) matrix
  of quaternions; values (nnz, 4). One entry is then a 4x4 real block made of 4 values.

`conjugate` multiplies by W* (conjugate transpose) instead, which is the gradient in x; the
gradient in the values, `sparse_hamilton_dv`, is sampled at the kept entries only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops._pattern import PatternLike, check_sampled, pattern_list, row_indices
from sparseq.ops._patterned import product_function, sampled_function
from sparseq.ops._stored_entries import Entries, needs_entries, product_of_entries
from sparseq.ops.hamilton import (
    PRODUCT,
    hamilton_dw_reference,
    hamilton_dx_reference,
    hamilton_reference,
)
from sparseq.ops.spmm import dense_matrix, stored_entries


@takes_dense_tensors
def sparse_hamilton(
    x: Tensor,
    values: Tensor,
    pattern: PatternLike,
    bias: Tensor | None = None,
    conjugate: bool = False,
) -> Tensor:
    """Sparse quaternion linear map of the last dimension.

    Args:
        x: (..., 4 k), floating point, four blocks [r | i | j | k]; (..., 4 m) when conjugate.
        values: (nnz) or (nnz, 4), the kept weights in CSR order, of x's dtype.
        pattern: a `CSRPattern`, or its row_ptr, col_idx, row_ptr_t, col_idx_t, perm (int32), which
            are then checked at every call; of the (4 m, k) matrix for values (nnz) and of the
            (m, k) matrix for values (nnz, 4).
        bias: (4 m) or None; must be None when conjugate.
        conjugate: multiply by W*.

    Returns:
        (..., 4 m), or (..., 4 k) when conjugate, x's dtype.

    Raises:
        ValueError: shapes or dtypes that do not match.
    """
    tensors = pattern_list("sparse_hamilton", pattern)
    _check(x, values, bias, tensors, conjugate)
    return _SPARSE_HAMILTON(x, values, bias, tensors, conjugate)


def _check(
    x: Tensor, values: Tensor, bias: Tensor | None, pattern: list[Tensor], conjugate: bool
) -> None:
    rows, columns = pattern[0].shape[0] - 1, pattern[2].shape[0] - 1
    out_features = 4 * rows if values.dim() == 2 else rows
    in_features = 4 * columns
    if values.dim() == 0 or values.shape != (pattern[1].shape[0], 4)[: values.dim()]:
        rule = f"must have shape ({pattern[1].shape[0]},) or ({pattern[1].shape[0]}, 4)"
        require(False, "sparse_hamilton", "values", rule, tuple(values.shape))
    if out_features % 4:
        require(False, "sparse_hamilton", "pattern", "must have 4 m rows", rows)
    if x.dim() == 0 or x.shape[-1] != (out_features if conjugate else in_features):
        rule = f"must have {out_features if conjugate else in_features} features"
        require(False, "sparse_hamilton", "x", rule, tuple(x.shape))
    if bias is not None and (conjugate or bias.shape != (out_features,)):
        rule = f"must have shape ({out_features},), and be None when conjugate"
        require(False, "sparse_hamilton", "bias", rule, tuple(bias.shape))
    if x.dtype != values.dtype or (bias is not None and bias.dtype != values.dtype):
        refuse_dtypes("sparse_hamilton", "values", {"x": x, "bias": bias, "values": values})


def _check_dv(dy: Tensor, x: Tensor, pattern: list[Tensor], per_quaternion: bool) -> None:
    rows, columns = pattern[0].shape[0] - 1, pattern[2].shape[0] - 1
    if not per_quaternion and rows % 4:
        require(False, "sparse_hamilton_dv", "pattern", "must have 4 m rows", rows)
    features = 4 * rows if per_quaternion else rows
    check_sampled("sparse_hamilton_dv", dy, features, x, 4 * columns)


def compact_weight(values: Tensor, pattern: Sequence[Tensor]) -> Tensor:
    """The (4, m, k) weight of the kept values, zeros elsewhere; differentiable in the values."""
    if values.dim() == 1:
        weight: Tensor = dense_matrix(values, pattern).unflatten(0, (4, -1))
        return weight
    return torch.stack([dense_matrix(values[:, c], pattern) for c in range(4)])


def sparse_hamilton_reference(
    x: Tensor, values: Tensor, bias: Tensor | None, pattern: list[Tensor], conjugate: bool
) -> Tensor:
    """Plain torch: scatter the values into the compact weight, then the dense reference."""
    if needs_entries(x):
        return _entry_by_entry(x, values, bias, pattern, conjugate)
    weight = compact_weight(values, pattern)
    if conjugate:
        return hamilton_dx_reference(x, weight, "16")
    return hamilton_reference(x, weight, bias, "16")


def _entry_by_entry(
    x: Tensor, values: Tensor, bias: Tensor | None, pattern: list[Tensor], conjugate: bool
) -> Tensor:
    """The real entries of the kept components, four each, times x."""
    rows, k = pattern[0].shape[0] - 1, pattern[2].shape[0] - 1
    row, column, _ = stored_entries(values, pattern)
    if values.dim() == 2:
        m, component = rows, torch.arange(4, device=row.device).repeat(len(row))
        row, column = row.repeat_interleave(4), column.repeat_interleave(4)
    else:
        m = rows // 4
        component, row = row // max(m, 1), row % max(m, 1)
    block = torch.arange(4, device=row.device)[:, None]
    other = block ^ component  # PRODUCT[block][other] is of this component
    signs = torch.tensor([[sign for _, sign in line] for line in PRODUCT], device=row.device)
    spread = block * m + row, other * k + column, signs[block, other] * values.flatten()
    entries = Entries(*(part.flatten() for part in spread))
    if conjugate:
        return product_of_entries(x, entries.transposed(), 4 * k, bias)
    return product_of_entries(x, entries, 4 * m, bias)


def sparse_hamilton_dv_reference(
    dy: Tensor, x: Tensor, pattern: list[Tensor], per_quaternion: bool
) -> Tensor:
    """Plain torch: the dense gradient, sampled at the entries of the pattern."""
    gradient = hamilton_dw_reference(dy, x, "16")
    rows, columns = row_indices(pattern[0], pattern[1]), pattern[1].long()
    if per_quaternion:
        return gradient[:, rows, columns].t().contiguous()
    return gradient.flatten(0, 1)[rows, columns]


def _fake(
    x: Tensor, values: Tensor, bias: Tensor | None, pattern: list[Tensor], conjugate: bool
) -> Tensor:
    _check(x, values, bias, pattern, conjugate)
    rows, columns = pattern[0].shape[0] - 1, pattern[2].shape[0] - 1
    features = 4 * columns if conjugate else (4 * rows if values.dim() == 2 else rows)
    return x.new_empty((*x.shape[:-1], features))


def _fake_dv(dy: Tensor, x: Tensor, pattern: list[Tensor], per_quaternion: bool) -> Tensor:
    _check_dv(dy, x, pattern, per_quaternion)
    nnz = pattern[1].shape[0]
    return dy.new_empty((nnz, 4) if per_quaternion else (nnz,))


_SPARSE_HAMILTON = declare(
    "sparse_hamilton("
    "Tensor x, Tensor values, Tensor? bias, Tensor[] pattern, bool conjugate) -> Tensor",
    sparse_hamilton_reference,
    _fake,
    product_function(
        "sparse_hamilton",
        "sparse_hamilton_dv",
        entry=lambda values: (values.dim() == 2,),
        products=4,
    ),
)
declare(
    "sparse_hamilton_dv(Tensor dy, Tensor x, Tensor[] pattern, bool per_quaternion) -> Tensor",
    sparse_hamilton_dv_reference,
    _fake_dv,
    sampled_function("sparse_hamilton_dv", "sparse_hamilton", entry_arguments=1, products=4),
)
