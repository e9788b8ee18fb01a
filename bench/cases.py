"""The grid of sizes, batches and densities, and seeded operands for a point of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sparseq.formats import CSRPattern

SIZES = [(784, 300), (1024, 1024), (2048, 2048)]  # inputs k, outputs m
BATCHES = [1, 16, 64, 512]
MAPS = [(64, 32), (128, 16), (256, 8), (512, 4)]  # channels, height of VGG's maps on CIFAR
IMAGE_BATCHES = [1, 32]
DENSITIES = [0.2, 0.1, 0.05, 0.02]


def _over(name: str, values: Sequence[object], label: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, values, ids=[label.format(value) for value in values])


over_sizes = _over("size", SIZES, "{0[0]}x{0[1]}")
over_batches = _over("batch", BATCHES, "batch-{}")
over_densities = _over("density", DENSITIES, "density-{}")
over_steps = pytest.mark.parametrize("step", ["forward", "training"])
# the operators alone: the layers, which are what is called, cover the whole grid
over_large_sizes = _over("size", SIZES[1:], "{0[0]}x{0[1]}")
over_maps = _over("size", MAPS, "{0[0]}ch-{0[1]}x{0[1]}")
over_image_batches = _over("batch", IMAGE_BATCHES, "batch-{}")
over_few_batches = _over("batch", [16, 512], "batch-{}")
over_few_densities = _over("density", [0.1, 0.02], "density-{}")


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


def name_of_map(size: tuple[int, int]) -> str:
    """64ch 32x32: channels, height and width."""
    return f"{size[0]}ch {size[1]}x{size[1]}"
