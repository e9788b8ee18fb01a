"""`sddmm`: sampled dense-dense matrix product, the gradient of `spmm` in its values.

    dv[p] = sum over n of dy[n, row(p)] * x[n, col_idx[p]]

for the entries of the pattern only; the dense (m, k) gradient is never formed.
"""

from __future__ import annotations

from torch import Tensor

from sparseq.ops._backend import declare
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops._pattern import PatternLike, batch_rows, check_sampled, pattern_list, row_indices
from sparseq.ops._patterned import sampled_function


@takes_dense_tensors
def sddmm(dy: Tensor, x: Tensor, pattern: PatternLike) -> Tensor:
    """Product of two batches, sampled at the entries of a pattern.

    Args:
        dy: (..., m), floating point.
        x: (..., k), of the same leading dimensions and dtype.
        pattern: a `CSRPattern` of the (m, k) matrix, or its row_ptr, col_idx, row_ptr_t, col_idx_t,
            perm (int32), which are then checked at every call.

    Returns:
        (nnz), in CSR order, dy's dtype.

    Raises:
        ValueError: shapes or dtypes that do not match.
    """
    tensors = pattern_list("sddmm", pattern)
    _check(dy, x, tensors)
    return _SDDMM(dy, x, tensors)


def _check(dy: Tensor, x: Tensor, pattern: list[Tensor]) -> None:
    m, k = pattern[0].shape[0] - 1, pattern[2].shape[0] - 1
    check_sampled("sddmm", dy, m, x, k)


def sddmm_reference(dy: Tensor, x: Tensor, pattern: list[Tensor]) -> Tensor:
    """Plain torch: the dense product, sampled at the entries of the pattern."""
    row_ptr, col_idx = pattern[:2]
    full = batch_rows(dy).t() @ batch_rows(x)
    return full[row_indices(row_ptr, col_idx), col_idx.long()]


def _fake(dy: Tensor, x: Tensor, pattern: list[Tensor]) -> Tensor:
    _check(dy, x, pattern)
    return dy.new_empty(pattern[1].shape[0])


_SDDMM = declare(
    "sddmm(Tensor dy, Tensor x, Tensor[] pattern) -> Tensor",
    sddmm_reference,
    _fake,
    sampled_function("sddmm", "spmm"),
)
