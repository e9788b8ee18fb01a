"""The grid of sizes, batches and densities, and seeded operands for a point of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparseq.formats import CSRPattern

SIZES = [(784, 300), (1024, 1024), (2048, 2048)]  # inputs k, outputs m
BATCHES = [1, 16, 64, 512]
DENSITIES = [0.2, 0.1, 0.05, 0.02]

over_sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
over_batches = pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: f"batch-{batch}")
over_densities = pytest.mark.parametrize("density", DENSITIES, ids=lambda d: f"density-{d}")
over_steps = pytest.mark.parametrize("step", ["forward", "training"])


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal fp32 of that shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_mask(rows: int, columns: int, density: float, seed: int = 0) -> Tensor:
    """(rows, columns) bool with exactly round(density * rows * columns) entries kept."""
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(rows * columns, dtype=torch.bool)
    mask[order[: round(density * rows * columns)]] = True
    return mask.view(rows, columns)


def random_pattern(rows: int, columns: int, density: float) -> CSRPattern:
    """Pattern of `random_mask`."""
    return CSRPattern.from_mask(random_mask(rows, columns, density))


def name_of(size: tuple[int, int]) -> str:
    """784x300: inputs x outputs."""
    return f"{size[0]}x{size[1]}"
