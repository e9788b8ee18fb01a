"""`spmm`: a sparse linear map, y = A x + b for each row x, A in CSR; and y = A^T x.

    y[n, r] = b[r] + sum over p in row r of values[p] * x[n, col_idx[p]]

The pattern is five int32 tensors (see `sparseq.formats.CSRPattern`, which checks them): row_ptr
(m + 1), col_idx (nnz), and those of the transpose, row_ptr_t (k + 1), col_idx_t (nnz) and perm
(nnz) with values_t = values[perm]. `transposed` multiplies by A^T, which is the gradient in x; the
gradient in the values is `sddmm`. No dense gradient is ever formed. Entries that are not stored are
never multiplied, stored zeros are: 0 * inf is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops._pattern import PatternLike, pattern_list, row_indices
from sparseq.ops._patterned import product_function
from sparseq.ops._stored_entries import Entries, needs_entries, product_of_entries


@takes_dense_tensors
def spmm(
    x: Tensor,
    values: Tensor,
    pattern: PatternLike,
    bias: Tensor | None = None,
    transposed: bool = False,
) -> Tensor:
    """Sparse linear map of the last dimension.

    Args:
        x: (..., k), floating point; (..., m) when transposed.
        values: (nnz), the kept weights in CSR order, of x's dtype.
        pattern: a `CSRPattern` of the (m, k) matrix, or its row_ptr, col_idx, row_ptr_t, col_idx_t,
            perm (int32), which are then checked at every call.
        bias: (m) or None; (k) when transposed.
        transposed: multiply by A^T.

    Returns:
        (..., m), or (..., k) when transposed, x's dtype.

    Raises:
        ValueError: shapes or dtypes that do not match.
    """
    tensors = pattern_list("spmm", pattern)
    _check(x, values, bias, tensors, transposed)
    return _SPMM(x, values, bias, tensors, transposed)


def _check(
    x: Tensor, values: Tensor, bias: Tensor | None, pattern: list[Tensor], transposed: bool
) -> None:
    m, k = pattern[0].shape[0] - 1, pattern[2].shape[0] - 1
    rows, columns = (k, m) if transposed else (m, k)
    if x.dim() == 0 or x.shape[-1] != columns:
        require(False, "spmm", "x", f"must have {columns} features", tuple(x.shape))
    if values.shape != pattern[1].shape:
        rule = f"must have one entry for each of the {pattern[1].shape[0]} column ids"
        require(False, "spmm", "values", rule, tuple(values.shape))
    if bias is not None and bias.shape != (rows,):
        require(False, "spmm", "bias", f"must have shape ({rows},)", tuple(bias.shape))
    if x.dtype != values.dtype or (bias is not None and bias.dtype != values.dtype):
        refuse_dtypes("spmm", "values", {"x": x, "bias": bias, "values": values})


def dense_matrix(values: Tensor, pattern: Sequence[Tensor]) -> Tensor:
    """The (m, k) matrix of CSR values; differentiable in the values."""
    row_ptr, col_idx, row_ptr_t = pattern[:3]
    matrix = values.new_zeros(row_ptr.shape[0] - 1, row_ptr_t.shape[0] - 1)
    return matrix.index_put((row_indices(row_ptr, col_idx), col_idx.long()), values)


def stored_entries(values: Tensor, pattern: Sequence[Tensor]) -> Entries:
    """The entries of a CSR matrix."""
    return Entries(row_indices(pattern[0], pattern[1]), pattern[1].long(), values)


def spmm_reference(
    x: Tensor, values: Tensor, bias: Tensor | None, pattern: list[Tensor], transposed: bool
) -> Tensor:
    """Plain torch: scatter the values into a dense matrix, then one dense product."""
    if needs_entries(x):
        entries = stored_entries(values, pattern)
        size = pattern[2 if transposed else 0].shape[0] - 1
        return product_of_entries(x, entries.transposed() if transposed else entries, size, bias)
    matrix = dense_matrix(values, pattern)
    return F.linear(x, matrix.t() if transposed else matrix, bias)


def _fake(
    x: Tensor, values: Tensor, bias: Tensor | None, pattern: list[Tensor], transposed: bool
) -> Tensor:
    _check(x, values, bias, pattern, transposed)
    return x.new_empty((*x.shape[:-1], pattern[2 if transposed else 0].shape[0] - 1))


_SPMM = declare(
    "spmm(Tensor x, Tensor values, Tensor? bias, Tensor[] pattern, bool transposed) -> Tensor",
    spmm_reference,
    _fake,
    product_function("spmm", "sddmm"),
)
