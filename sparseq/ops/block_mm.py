"""`block_mm`: a linear map whose weight is a sparse grid of dense blocks, and its gradients.

    y[n, I r + i] = b[I r + i] + sum over blocks p of grid row I, j < c:
                    values[p, i, j] * x[n, J(p) c + j]          blocks of r rows, c columns

The pattern is that of the (m / r, k / c) grid. Square blocks run as dense micro-tiles; blocks of
one column are groups of outputs that share their inputs. `transposed` multiplies by the transpose,
which is the gradient in x; the gradient in the values is `block_mm_dv`, for the kept blocks only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops._pattern import PatternLike, batch_rows, check_sampled, pattern_list, row_indices
from sparseq.ops._patterned import product_function, sampled_function
from sparseq.ops._stored_entries import Entries, needs_entries, product_of_entries
from sparseq.ops.spmm import stored_entries


@takes_dense_tensors
def block_mm(
    x: Tensor,
    values: Tensor,
    pattern: PatternLike,
    bias: Tensor | None = None,
    transposed: bool = False,
) -> Tensor:
    """Block-sparse linear map of the last dimension.

    Args:
        x: (..., k), floating point; (..., m) when transposed.
        values: (blocks, r, c), in the order of the grid's pattern, of x's dtype.
        pattern: a `CSRPattern` of the (m / r, k / c) grid, or its row_ptr, col_idx, row_ptr_t,
            col_idx_t, perm (int32), which are then checked at every call.
        bias: (m) or None; (k) when transposed.
        transposed: multiply by the transpose.

    Returns:
        (..., m), or (..., k) when transposed, x's dtype.

    Raises:
        ValueError: shapes or dtypes that do not match.
    """
    tensors = pattern_list("block_mm", pattern)
    _check(x, values, bias, tensors, transposed)
    return _BLOCK_MM(x, values, bias, tensors, transposed)


def _check(
    x: Tensor, values: Tensor, bias: Tensor | None, pattern: list[Tensor], transposed: bool
) -> None:
    if values.dim() != 3 or values.shape[0] != pattern[1].shape[0]:
        rule = f"must have shape ({pattern[1].shape[0]}, r, c)"
        require(False, "block_mm", "values", rule, tuple(values.shape))
    m, k = _sizes(values, pattern)
    rows, columns = (k, m) if transposed else (m, k)
    if x.dim() == 0 or x.shape[-1] != columns:
        require(False, "block_mm", "x", f"must have {columns} features", tuple(x.shape))
    if bias is not None and bias.shape != (rows,):
        require(False, "block_mm", "bias", f"must have shape ({rows},)", tuple(bias.shape))
    if x.dtype != values.dtype or (bias is not None and bias.dtype != values.dtype):
        refuse_dtypes("block_mm", "values", {"x": x, "bias": bias, "values": values})


def _check_dv(dy: Tensor, x: Tensor, pattern: list[Tensor], rows: int, columns: int) -> None:
    if rows < 0 or columns < 0:
        require(False, "block_mm_dv", "rows, columns", "must not be negative", (rows, columns))
    m, k = (pattern[0].shape[0] - 1) * rows, (pattern[2].shape[0] - 1) * columns
    check_sampled("block_mm_dv", dy, m, x, k)


def _sizes(values: Tensor, pattern: Sequence[Tensor]) -> tuple[int, int]:
    """(m, k) of the full matrix."""
    grid = (pattern[0].shape[0] - 1, pattern[2].shape[0] - 1)
    return grid[0] * values.shape[1], grid[1] * values.shape[2]


def matrix_of_blocks(values: Tensor, pattern: Sequence[Tensor]) -> Tensor:
    """The dense (m, k) matrix; differentiable in the values."""
    row_ptr, col_idx, row_ptr_t = pattern[:3]
    r, c = values.shape[1:]
    grid = values.new_zeros(row_ptr.shape[0] - 1, row_ptr_t.shape[0] - 1, r, c)
    grid = grid.index_put((row_indices(row_ptr, col_idx), col_idx.long()), values)
    return grid.transpose(1, 2).reshape(_sizes(values, pattern))


def _entries(values: Tensor, pattern: Sequence[Tensor]) -> Entries:
    """The entries of all blocks."""
    count, r, c = values.shape
    grid = stored_entries(values, pattern)
    rows = grid.rows[:, None] * r + torch.arange(r, device=values.device)
    columns = grid.columns[:, None] * c + torch.arange(c, device=values.device)
    shape = (count, r, c)
    spread = rows[:, :, None].expand(shape), columns[:, None].expand(shape), values
    return Entries(*(part.flatten() for part in spread))


def block_mm_reference(
    x: Tensor, values: Tensor, bias: Tensor | None, pattern: list[Tensor], transposed: bool
) -> Tensor:
    """Plain torch: the dense matrix, then one dense product."""
    if needs_entries(x):
        entries, (m, k) = _entries(values, pattern), _sizes(values, pattern)
        if transposed:
            return product_of_entries(x, entries.transposed(), k, bias)
        return product_of_entries(x, entries, m, bias)
    matrix = matrix_of_blocks(values, pattern)
    return F.linear(x, matrix.t() if transposed else matrix, bias)


def block_mm_dv_reference(
    dy: Tensor, x: Tensor, pattern: list[Tensor], rows: int, columns: int
) -> Tensor:
    """Plain torch: the dense product, then its kept blocks; -> (blocks, rows, columns)."""
    full = batch_rows(dy).t() @ batch_rows(x)
    grid = full.unflatten(0, (-1, rows)).unflatten(2, (-1, columns)).transpose(1, 2)
    blocks: Tensor = grid[row_indices(pattern[0], pattern[1]), pattern[1].long()]
    return blocks


def _fake(
    x: Tensor, values: Tensor, bias: Tensor | None, pattern: list[Tensor], transposed: bool
) -> Tensor:
    _check(x, values, bias, pattern, transposed)
    return x.new_empty((*x.shape[:-1], _sizes(values, pattern)[1 if transposed else 0]))


def _fake_dv(dy: Tensor, x: Tensor, pattern: list[Tensor], rows: int, columns: int) -> Tensor:
    _check_dv(dy, x, pattern, rows, columns)
    return dy.new_empty((pattern[1].shape[0], rows, columns))


_BLOCK_MM = declare(
    "block_mm(Tensor x, Tensor values, Tensor? bias, Tensor[] pattern, bool transposed) -> Tensor",
    block_mm_reference,
    _fake,
    product_function("block_mm", "block_mm_dv", entry=lambda values: values.shape[1:]),
)
declare(
    "block_mm_dv(Tensor dy, Tensor x, Tensor[] pattern, int rows, int columns) -> Tensor",
    block_mm_dv_reference,
    _fake_dv,
    sampled_function("block_mm_dv", "block_mm", entry_arguments=2),
)
