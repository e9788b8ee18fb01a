"""`block_mm` and its gradient, for square blocks and groups, against the dense product."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.baselines import agrees, dw_sides, linear_bf16, linear_sides
from bench.cases import (
    headline,
    name_of,
    normal,
    over_few_batches,
    over_few_densities,
    over_large_sizes,
    random_pattern,
    useful_flop,
)
from sparseq.ops.block_mm import block_mm, block_mm_dv_reference, matrix_of_blocks

over_blocks = pytest.mark.parametrize(
    "block", [(16, 16), (64, 64), (8, 1)], ids=lambda block: f"{block[0]}x{block[1]}"
)


def operands(size, density, block):
    """Values and pattern tensors of a random grid of blocks."""
    (k, m), (r, c) = size, block
    pattern = random_pattern(m // r, k // c, density)
    return normal(pattern.nnz, r, c, seed=1), pattern._tensors


def row_names(subject, block, size, batch, density):
    """What names a row of the results."""
    return {
        "suite": "block_mm",
        "subject": f"{subject} {block[0]}x{block[1]}",
        "case": name_of(size),
        "batch": batch,
        "density": density,
    }


@headline(size=(2048, 2048), batch=512, density=0.1, block=(16, 16), transposed=False)
@headline(size=(2048, 2048), batch=512, density=0.1, block=[(64, 64), (8, 1)], thread_count=1)
@over_large_sizes
@over_few_batches
@over_few_densities
@over_blocks
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "transposed"])
def test_product(race, extras, size, batch, density, block, transposed):
    values, pattern = operands(size, density, block)
    matrix = matrix_of_blocks(values, pattern)
    weight = matrix.t().contiguous() if transposed else matrix
    x = normal(batch, weight.shape[1], seed=2)

    def ours():
        return block_mm(x, values, pattern, None, transposed)

    agrees(ours(), F.linear(x.double(), weight.double()), "block_mm")
    sides = {"sparseq": ours, **linear_sides("F.linear fp32", x, weight, None)}
    if extras:
        sides["F.linear bf16"] = linear_bf16(x, weight, None)
    subject = "transposed" if transposed else "forward"
    useful = useful_flop(values.numel(), batch)
    race(sides, "block_mm", useful, **row_names(subject, block, size, batch, density))


@headline(size=(2048, 2048), batch=512, density=0.1, block=(16, 16))
@over_large_sizes
@over_few_batches
@over_few_densities
@over_blocks
def test_dv(race, size, batch, density, block):
    values, pattern = operands(size, density, block)
    x, dy = normal(batch, size[0], seed=2), normal(batch, size[1], seed=3)
    sampled = torch.ops.sparseq.block_mm_dv.default

    def ours():
        return sampled(dy, x, pattern, *block)

    exact = block_mm_dv_reference(dy.double(), x.double(), pattern, *values.shape[1:])
    agrees(ours(), exact, "block_mm_dv")
    sides = {"sparseq": ours, **dw_sides(dy, x)}
    useful = useful_flop(values.numel(), batch)
    race(sides, "block_mm_dv", useful, **row_names("dv", block, size, batch, density))
