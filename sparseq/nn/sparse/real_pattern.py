"""The pattern of the real weight of a sparse quaternion convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseq.formats import CSRPattern
from sparseq.ops.hamilton import PRODUCT

# sign of the component b xor c in block (b, c) of the real weight
SIGNS = [[sign for _, sign in row] for row in PRODUCT]


def expand_pattern(
    pattern: CSRPattern, channels: tuple[int, int], groups: int, granularity: str
) -> tuple[CSRPattern, Tensor]:
    """The pattern of the real weight, four entries for each kept component, and their sources.

    Args:
        pattern: of the compact weight: (4 m, k / groups * taps) for granularity "component",
            (m, k / groups * taps) for "quaternion".
        channels: m and k, in quaternions.
        groups: of quaternion channels.
        granularity: "component" or "quaternion".

    Returns:
        The (4 m, 4 k * taps) pattern, and for each of its entries the int32 index of its value in
        cat([values, -values]).
    """
    (outputs, inputs), columns = channels, pattern.shape[1]
    by_quaternion, taps = granularity == "quaternion", columns * groups // max(inputs, 1)
    width = 4 * inputs * taps
    if pattern.is_meta:
        entries = pattern.nnz * (16 if by_quaternion else 4)
        col_idx = torch.empty(entries, dtype=torch.int32, device="meta")
        row_ptr = torch.empty(4 * outputs + 1, dtype=torch.int32, device="meta")
        return CSRPattern.from_csr(row_ptr, col_idx, width), col_idx
    rows, column = pattern.rows(), pattern.columns()
    if by_quaternion:
        rows, column = rows.repeat_interleave(4), column.repeat_interleave(4)
        component = torch.arange(4, device=rows.device).repeat(pattern.nnz)
    else:
        component, rows = rows // outputs, rows % outputs
    entry = torch.arange(len(rows), device=rows.device)
    ungrouped = rows * groups // outputs * columns + column
    block = torch.arange(4, device=rows.device)[:, None]
    sign = torch.tensor(SIGNS, device=rows.device)[block, block ^ component]
    key = (block * outputs + rows) * width + (block ^ component) * inputs * taps + ungrouped
    source = torch.where(sign > 0, entry, entry + len(entry))
    order = key.flatten().argsort()
    key = key.flatten()[order]
    counts = torch.bincount(key // width, minlength=4 * outputs)
    row_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    real = CSRPattern.from_csr(row_ptr, key % width, width)
    return real, source.flatten()[order].to(torch.int32)
