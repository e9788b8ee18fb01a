"""`sddmm`: sampled dense-dense matrix product, the gradient of `spmm` in its values.

    dv[p] = sum over n of dy[n, row(p)] * x[n, col_idx[p]]

for the entries of the pattern only; the dense (m, k) gradient is never formed.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops._patterned import sampled_function
from sparseq.ops.spmm import row_indices


@takes_dense_tensors
def sddmm(dy: Tensor, x: Tensor, pattern: Sequence[Tensor]) -> Tensor:
    """Product of two batches, sampled at the entries of a pattern.

    Args:
        dy: (..., m), floating point.
        x: (..., k), of the same leading dimensions and dtype.
        pattern: row_ptr, col_idx, row_ptr_t, col_idx_t, perm (int32) of the (m, k) matrix, already
            checked.

    Returns:
        (nnz), in CSR order, dy's dtype.

    Raises:
        ValueError: shapes or dtypes that do not match.
    """
    m, k = pattern[0].shape[0] - 1, pattern[2].shape[0] - 1
    if dy.dim() == 0 or dy.shape[-1] != m:
        require(False, "sddmm", "dy", f"must have {m} features", tuple(dy.shape))
    if x.shape != (*dy.shape[:-1], k):
        rule = f"must have shape {(*dy.shape[:-1], k)}"
        require(False, "sddmm", "x", rule, tuple(x.shape))
    if x.dtype != dy.dtype:
        refuse_dtypes("sddmm", "dy", {"x": x, "dy": dy})
    return _SDDMM(dy, x, list(pattern))


def sddmm_reference(dy: Tensor, x: Tensor, pattern: list[Tensor]) -> Tensor:
    """Plain torch: the dense product, sampled at the entries of the pattern."""
    row_ptr, col_idx = pattern[:2]
    full = dy.reshape(-1, dy.shape[-1]).t() @ x.reshape(-1, x.shape[-1])
    return full[row_indices(row_ptr, col_idx), col_idx.long()]


def _fake(dy: Tensor, x: Tensor, pattern: list[Tensor]) -> Tensor:
    return dy.new_empty(pattern[1].shape[0])


_SDDMM = declare(
    "sddmm(Tensor dy, Tensor x, Tensor[] pattern) -> Tensor",
    sddmm_reference,
    _fake,
    sampled_function("sddmm", "spmm"),
)
