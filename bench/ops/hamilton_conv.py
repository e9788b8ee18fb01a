"""`hamilton_conv` and its two gradients against the dense real convolutions of the same size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.baselines import agrees, cat_then_conv
from bench.cases import name_of_map, normal, over_image_batches, over_maps
from sparseq.ops.hamilton import fold_real, real_weight
from sparseq.ops.hamilton_conv import hamilton_conv

OP = torch.ops.sparseq
SETTINGS = ([1, 1], [1, 1], [1, 1], 1, "auto")


def operands(size, batch):
    """x (n, c, h, h), compact weight (4, c / 4, c / 4, 3, 3), dy like x."""
    channels, height = size
    x = normal(batch, channels, height, height)
    weight = normal(4, channels // 4, channels // 4, 3, 3, seed=1) / channels
    return x, weight, normal(*x.shape, seed=2)


def gradient(dy, x, real, mask):
    """One gradient of torch's convolution."""
    results = torch.ops.aten.convolution_backward(
        dy, x, real, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
    )
    return results[mask.index(True)]


@over_maps
@over_image_batches
def test_forward(race, size, batch):
    x, weight, _ = operands(size, batch)
    real, parts = real_weight(weight), list(weight)
    exact = F.conv2d(x.double(), real.double(), padding=1)
    agrees(hamilton_conv(x, weight, None, 1, 1), exact, "hamilton_conv")
    sides = {
        "sparseq": lambda: hamilton_conv(x, weight, None, 1, 1),
        "F.conv2d fp32": lambda: F.conv2d(x, real, padding=1),
        "cat then conv": lambda: cat_then_conv(x, parts, None, padding=1),
    }
    race(
        sides,
        "hamilton_conv",
        suite="hamilton_conv",
        subject="hamilton_conv",
        case=name_of_map(size),
        batch=batch,
    )


@over_maps
@over_image_batches
@pytest.mark.parametrize("of", ["dx", "dw"])
def test_gradients(race, size, batch, of):
    x, weight, dy = operands(size, batch)
    real, mask = real_weight(weight), [of == "dx", of == "dw", False]
    exact = gradient(dy.double(), x.double(), real.double(), mask)
    ours = {
        "dx": lambda: OP.hamilton_conv_dx(dy, weight, x.shape[2:], *SETTINGS),
        "dw": lambda: OP.hamilton_conv_dw(dy, x, [3, 3], *SETTINGS),
    }[of]
    name = f"hamilton_conv_{of}"
    agrees(ours(), exact if of == "dx" else fold_real(exact), name)
    sides = {"sparseq": ours, "dense fp32": lambda: gradient(dy, x, real, mask)}
    race(sides, name, suite="hamilton_conv", subject=name, case=name_of_map(size), batch=batch)
