"""`hamilton` and its two gradients against the dense real products of the same size."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.baselines import (
    agrees,
    cat_then_linear,
    dw_sides,
    dx_sides,
    linear_bf16,
    linear_sides,
)
from bench.cases import (
    headline,
    name_of,
    normal,
    over_few_batches,
    over_large_sizes,
    useful_flop,
)
from sparseq.ops.hamilton import fold_real, hamilton, real_weight

OP = torch.ops.sparseq


def operands(size, batch):
    """x (n, k), compact weight (4, m/4, k/4), dy (n, m)."""
    k, m = size
    return normal(batch, k), normal(4, m // 4, k // 4, seed=1), normal(batch, m, seed=2)


@headline(size=(2048, 2048), batch=512)
@headline(size=(1024, 1024), batch=16, thread_count=1)
@over_large_sizes
@over_few_batches
def test_forward(race, extras, size, batch):
    x, weight, _ = operands(size, batch)
    real, parts = real_weight(weight), list(weight)
    agrees(hamilton(x, weight), F.linear(x.double(), real.double()), "hamilton")
    sides = {
        "sparseq": lambda: hamilton(x, weight),
        **linear_sides("F.linear fp32", x, real, None),
    }
    if extras:
        sides["F.linear bf16"] = linear_bf16(x, real, None)
        sides["cat then linear"] = lambda: cat_then_linear(x, parts, None)
    race_hamilton(race, sides, "hamilton", size, batch)


def race_hamilton(race, sides, name, size, batch):
    """The race, and what names its rows."""
    useful = useful_flop(size[0] * size[1], batch)
    race(sides, name, useful, suite="hamilton", subject=name, case=name_of(size), batch=batch)


@headline(size=(2048, 2048), batch=512, thread_count=1)
@over_large_sizes
@over_few_batches
def test_dx(race, size, batch):
    _, weight, dy = operands(size, batch)
    real = real_weight(weight)
    agrees(OP.hamilton_dx(dy, weight, "auto"), dy.double() @ real.double(), "hamilton_dx")
    sides = {"sparseq": lambda: OP.hamilton_dx(dy, weight, "auto"), **dx_sides(dy, real)}
    race_hamilton(race, sides, "hamilton_dx", size, batch)


@headline(size=(2048, 2048), batch=512, thread_count=1)
@over_large_sizes
@over_few_batches
def test_dw(race, size, batch):
    x, _, dy = operands(size, batch)
    exact = fold_real(dy.double().t() @ x.double())
    agrees(OP.hamilton_dw(dy, x, "auto"), exact, "hamilton_dw")
    sides = {"sparseq": lambda: OP.hamilton_dw(dy, x, "auto"), **dw_sides(dy, x)}
    race_hamilton(race, sides, "hamilton_dw", size, batch)
