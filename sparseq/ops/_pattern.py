"""The pattern of an op's call: five int32 tensors, checked before anything reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._inputs import check_dense
from sparseq.ops._trust import is_trusted
from sparseq.ops.host import transpose_csr

INT32_MAX = 2**31 - 1


class CheckedPattern(Protocol):
    """What keeps a checked pattern: `sparseq.formats.CSRPattern`."""

    _tensors: list[Tensor]


PatternLike = CheckedPattern | Sequence[Tensor]
COUNT = 5  # row_ptr, col_idx, row_ptr_t, col_idx_t, perm


def pattern_list(op: str, pattern: PatternLike) -> list[Tensor]:
    """The tensors of a `CSRPattern`, which need no check, or those of a sequence."""
    if type(pattern) is list and len(pattern) == COUNT:  # as layers call it
        return pattern
    private = getattr(pattern, "_tensors", None)
    tensors: list[Tensor] = list(pattern) if private is None else private  # type: ignore[arg-type]
    require(len(tensors) == COUNT, op, "pattern", "must be five tensors", len(tensors))
    return tensors


def check_lengths(op: str, argument: str, pattern: Sequence[Tensor]) -> None:
    """ValueError unless a pattern is five int32 vectors whose lengths agree."""
    require(len(pattern) == COUNT, op, argument, "must be five tensors", len(pattern))
    if any(t.dim() != 1 or t.dtype != torch.int32 for t in pattern):
        got = ", ".join(f"{t.dtype} {tuple(t.shape)}" for t in pattern)
        require(False, op, argument, "must be vectors of int32", got)
    row_ptr, col_idx, row_ptr_t, col_idx_t, perm = (t.shape[0] for t in pattern)
    if row_ptr < 1 or row_ptr_t < 1 or max(row_ptr - 1, row_ptr_t - 1, col_idx) > INT32_MAX:
        rule = "must have row pointers, and fit in 32-bit indices"
        require(False, op, argument, rule, (row_ptr, col_idx, row_ptr_t))
    if col_idx_t != col_idx or perm != col_idx:
        rule = "must have as many col_idx_t and perm as col_idx"
        require(False, op, argument, rule, (col_idx, col_idx_t, perm))


def batch_rows(x: Tensor) -> Tensor:
    """x (..., features) as a matrix of rows, whatever sizes are 0."""
    return x.flatten(0, -2) if x.dim() > 1 else x[None]


def check_sampled(op: str, dy: Tensor, m: int, x: Tensor, k: int) -> None:
    """ValueError unless dy is (..., m), and x (..., k) of the same leading sizes and dtype."""
    if dy.dim() == 0 or dy.shape[-1] != m:
        require(False, op, "dy", f"must have {m} features", tuple(dy.shape))
    if x.shape != (*dy.shape[:-1], k):
        rule = f"must have shape {(*dy.shape[:-1], k)}"
        require(False, op, "x", rule, tuple(x.shape))
    if x.dtype != dy.dtype:
        refuse_dtypes(op, "dy", {"x": x, "dy": dy})


def check_contents(op: str, argument: str, pattern: Sequence[Tensor]) -> None:
    """ValueError unless the five tensors are a pattern and its transpose.

    Args:
        op, argument: named in the error.
        pattern: of checked lengths, with data.
    """
    if is_trusted(pattern):
        return
    row_ptr, col_idx, *transposed = pattern
    columns = transposed[0].shape[0] - 1
    check_csr(op, row_ptr, col_idx, columns)
    computed = transpose_csr(_ids(row_ptr), _ids(col_idx), columns)
    is_own = all(bool((_ids(t) == c).all()) for t, c in zip(transposed, computed, strict=True))
    rule = "must have the row_ptr_t, col_idx_t and perm of its own transpose"
    require(is_own, op, argument, rule, "other contents")


def _ids(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()


def check_csr(op: str, row_ptr: Tensor, col_idx: Tensor, columns: int) -> None:
    """ValueError that names the tensor and the rule unless the two form a CSR pattern."""
    for name, tensor in (("row_ptr", row_ptr), ("col_idx", col_idx)):
        check_dense(op, name, tensor)
        integral = tensor.dim() == 1 and not (tensor.is_floating_point() or tensor.is_complex())
        got = f"{tensor.dtype} {tuple(tensor.shape)}"
        rule = "must be a vector of integers"
        require(integral and tensor.dtype != torch.bool, op, name, rule, got)
    rule = "must have one entry more than there are rows"
    require(row_ptr.numel() > 0, op, "row_ptr", rule, "none")
    got = f"{col_idx.numel()} entries, {columns} columns"
    fits = columns >= 0 and max(col_idx.numel(), columns) <= INT32_MAX
    require(fits, op, "col_idx", "must fit in 32-bit indices", got)
    same = row_ptr.device == col_idx.device
    require(same, op, "col_idx", f"must be on {row_ptr.device}, as row_ptr is", col_idx.device)
    if row_ptr.is_meta:
        return
    ends, nnz = (int(row_ptr[0]), int(row_ptr[-1])), col_idx.numel()
    require(ends == (0, nnz), op, "row_ptr", f"must go from 0 to {nnz}", ends)
    increasing = bool((row_ptr[1:] >= row_ptr[:-1]).all())
    require(increasing, op, "row_ptr", "must not decrease", "an entry below its predecessor")
    if nnz:
        _check_ids(op, row_ptr, col_idx, columns)


def _check_ids(op: str, row_ptr: Tensor, col_idx: Tensor, columns: int) -> None:
    low, high = int(col_idx.min()), int(col_idx.max())
    rule = f"must lie in 0..{columns - 1}"
    require(low >= 0 and high < columns, op, "col_idx", rule, f"{low}..{high}")
    key = row_indices(row_ptr, col_idx) * columns + col_idx
    increasing = bool((key.diff() > 0).all())
    rule = "must increase strictly within each row"
    require(increasing, op, "col_idx", rule, "an entry not above its predecessor")


def row_indices(row_ptr: Tensor, col_idx: Tensor) -> Tensor:
    """(nnz) int64: the row of each entry."""
    rows = torch.arange(row_ptr.shape[0] - 1, device=row_ptr.device)
    counts = row_ptr.diff().long()
    return torch.repeat_interleave(rows, counts, output_size=col_idx.shape[0])
