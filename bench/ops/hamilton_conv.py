"""`hamilton_conv` and its two gradients against the dense real convolutions of the same size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.baselines import (
    agrees,
    cat_then_conv,
    conv_forward_sides,
    conv_gradient,
    conv_gradient_sides,
)
from bench.cases import (
    headline,
    name_of_map,
    normal,
    over_image_batches,
    over_maps,
    useful_flop,
)
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


def race_conv(race, sides, name, size, batch):
    """The race, and what names its rows."""
    useful = useful_flop(9 * size[0] ** 2, batch * size[1] ** 2)
    case = name_of_map(size)
    race(sides, name, useful, suite="hamilton_conv", subject=name, case=case, batch=batch)


@headline(size=(128, 16), batch=32)
@headline(size=(512, 4), batch=1, thread_count=1)
@over_maps
@over_image_batches
def test_forward(race, extras, size, batch):
    x, weight, _ = operands(size, batch)
    real, parts = real_weight(weight), list(weight)
    exact = F.conv2d(x.double(), real.double(), padding=1)
    agrees(hamilton_conv(x, weight, None, 1, 1), exact, "hamilton_conv")
    sides = {
        "sparseq": lambda: hamilton_conv(x, weight, None, 1, 1),
        **conv_forward_sides("F.conv2d fp32", x, real),
    }
    if extras:
        sides["cat then conv"] = lambda: cat_then_conv(x, parts, None, padding=1)
    race_conv(race, sides, "hamilton_conv", size, batch)


@headline(size=(128, 16), batch=32, thread_count=1)
@over_maps
@over_image_batches
@pytest.mark.parametrize("of", ["dx", "dw"])
def test_gradients(race, size, batch, of):
    x, weight, dy = operands(size, batch)
    real = real_weight(weight)
    exact = conv_gradient(of, dy.double(), x.double(), real.double())
    ours = {
        "dx": lambda: OP.hamilton_conv_dx(dy, weight, x.shape[2:], *SETTINGS),
        "dw": lambda: OP.hamilton_conv_dw(dy, x, [3, 3], *SETTINGS),
    }[of]
    name = f"hamilton_conv_{of}"
    agrees(ours(), exact if of == "dx" else fold_real(exact), name)
    race_conv(race, {"sparseq": ours, **conv_gradient_sides(of, dy, x, real)}, name, size, batch)
