"""`quaternion_norm` and its sums against torch on one real channel at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.cases import headline, normal
from sparseq.ops.quaternion_norm import quaternion_cross, quaternion_moments, quaternion_norm

MAPS = [(64, 32), (256, 8), (512, 4)]  # channels, height and width
PARTS = ["quaternion_norm", "quaternion_norm_moments", "quaternion_norm_cross"]
over_maps = pytest.mark.parametrize("size", MAPS, ids="{0[0]}x{0[1]}x{0[1]}".format)


def maps(size: tuple[int, int], batch: int, seed: int = 0) -> Tensor:
    """Features (batch, channels, height, width)."""
    channels, side = size
    return normal(batch, channels, side, side, seed=seed)


def name_of(size: tuple[int, int]) -> str:
    """64x32x32: channels, height, width."""
    return f"{size[0]}x{size[1]}x{size[1]}"


@headline(size=(64, 32))
@over_maps
@pytest.mark.parametrize("name", PARTS)
def test_operators(race, size, name):
    x, dy = maps(size, 32), maps(size, 32, seed=1)
    matrix, center = normal(4, 4, size[0] // 4, seed=2), normal(size[0], seed=3)
    calls = {
        "quaternion_norm": (lambda: quaternion_norm(x, matrix, center), lambda: x * 2),
        "quaternion_norm_moments": (
            lambda: quaternion_moments(x),
            lambda: torch.var_mean(x, (0, 2, 3)),
        ),
        "quaternion_norm_cross": (
            lambda: quaternion_cross(dy, x, center),
            lambda: (dy * x).sum((0, 2, 3)),
        ),
    }
    ours, plain = calls[name]
    race(
        {"sparseq": ours, "one real channel at a time": plain},
        name,
        suite="quaternion_norm",
        subject=name,
        case=name_of(size),
        batch=32,
    )
