"""The plan of the hamilton kernel: which algorithm and which tile serve which sizes and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton

FEW = 16  # quaternions; up to this size a product is memory-bound


class Sizes(NamedTuple):
    """The sizes of a product, in quaternions."""

    rows: Any
    lanes: Any
    depth: Any


@dataclass(frozen=True)
class Plan:
    """The compile-time parameters of a kernel: algorithm, conjugated operand and tile."""

    eight: bool  # algorithm "8", otherwise "16"
    conjugate: str  # "a", "b" or ""
    precision: str  # of float32 products
    rows: int
    lanes: int
    depth: int
    warps: int


def plan_for(sizes: Sizes, dtype: torch.dtype, algorithm: str, conjugate: str = "") -> Plan:
    """Algorithm and tile by size; "auto" is "8" unless a size is at most FEW."""
    eight = algorithm == "8" or (algorithm != "16" and min(sizes) > FEW)
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    exact = dtype == torch.float32 and not tf32
    rows, lanes = _tile(sizes, exact, eight)
    warps = 8 if rows * lanes > 256 else 4
    depth = 64 // dtype.itemsize
    return Plan(eight, conjugate, "ieee" if exact else "tf32", rows, lanes, depth, warps)


def _tile(sizes: Sizes, exact: bool, eight: bool) -> tuple[int, int]:
    """(rows, lanes) of a tile for these sizes that fits in registers; see `hamilton.py`."""
    if exact and not eight:
        return _fit(sizes.rows, 32), _fit(sizes.lanes, 16)
    aligned = all(size % 16 == 0 for size in sizes)
    rows = _fit(sizes.rows, 64) if exact else 64
    return rows, _fit(sizes.lanes, 64 if aligned or not eight else 32)


def _fit(size: int, most: int) -> int:
    return min(most, max(16, triton.next_power_of_2(size)))
