"""`hamilton` and its two gradients against the dense real products of the same size."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.baselines import agrees, cat_then_linear, linear_bf16
from bench.cases import name_of, normal, over_few_batches, over_large_sizes
from sparseq.ops.hamilton import fold_real, hamilton, real_weight

OP = torch.ops.sparseq


def operands(size, batch):
    """x (n, k), compact weight (4, m/4, k/4), dy (n, m)."""
    k, m = size
    return normal(batch, k), normal(4, m // 4, k // 4, seed=1), normal(batch, m, seed=2)


@over_large_sizes
@over_few_batches
def test_forward(race, size, batch):
    x, weight, _ = operands(size, batch)
    real, parts = real_weight(weight), list(weight)
    agrees(hamilton(x, weight), F.linear(x.double(), real.double()), "hamilton")
    sides = {
        "sparseq": lambda: hamilton(x, weight),
        "F.linear fp32": lambda: F.linear(x, real),
        "F.linear bf16": linear_bf16(x, real, None),
        "cat then linear": lambda: cat_then_linear(x, parts, None),
    }
    race(sides, "hamilton", suite="hamilton", subject="hamilton", case=name_of(size), batch=batch)


@over_large_sizes
@over_few_batches
def test_dx(race, size, batch):
    _, weight, dy = operands(size, batch)
    real = real_weight(weight)
    agrees(OP.hamilton_dx(dy, weight, "auto"), dy.double() @ real.double(), "hamilton_dx")
    sides = {
        "sparseq": lambda: OP.hamilton_dx(dy, weight, "auto"),
        "dense fp32": lambda: dy @ real,
    }
    race(
        sides,
        "hamilton_dx",
        suite="hamilton",
        subject="hamilton_dx",
        case=name_of(size),
        batch=batch,
    )


@over_large_sizes
@over_few_batches
def test_dw(race, size, batch):
    x, _, dy = operands(size, batch)
    exact = fold_real(dy.double().t() @ x.double())
    agrees(OP.hamilton_dw(dy, x, "auto"), exact, "hamilton_dw")
    sides = {
        "sparseq": lambda: OP.hamilton_dw(dy, x, "auto"),
        "dense fp32": lambda: dy.t() @ x,
    }
    race(
        sides,
        "hamilton_dw",
        suite="hamilton",
        subject="hamilton_dw",
        case=name_of(size),
        batch=batch,
    )
