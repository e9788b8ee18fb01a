"""`sparse_hamilton` and its gradient at both granularities against the dense real product."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.baselines import agrees, dw_sides, linear_bf16, linear_sides, torch_csr
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
from sparseq.ops.hamilton import real_weight
from sparseq.ops.sparse_hamilton import (
    compact_weight,
    sparse_hamilton,
    sparse_hamilton_dv_reference,
)

over_granularities = pytest.mark.parametrize("granularity", ["component", "quaternion"])


def operands(size, density, granularity):
    """Values and pattern tensors of a random compact weight (4, m/4, k/4)."""
    k, m = size
    whole = granularity == "quaternion"
    pattern = random_pattern(m // 4 if whole else m, k // 4, density)
    values = normal(pattern.nnz, *([4] if whole else []), seed=1)
    return values, pattern._tensors


def useful(values, batch):
    """A kept component takes part in four of a quaternion product's 16 real ones."""
    return useful_flop(4 * values.numel(), batch)


@headline(size=(2048, 2048), batch=512, density=0.1)
@headline(size=(1024, 1024), batch=16, density=0.1, granularity="quaternion", thread_count=1)
@over_large_sizes
@over_few_batches
@over_few_densities
@over_granularities
def test_forward(race, extras, size, batch, density, granularity):
    values, pattern = operands(size, density, granularity)
    x, weight = normal(batch, size[0]), real_weight(compact_weight(values, pattern))
    exact = F.linear(x.double(), weight.double())
    agrees(sparse_hamilton(x, values, pattern), exact, "sparse_hamilton")
    sides = {
        "sparseq": lambda: sparse_hamilton(x, values, pattern),
        **linear_sides("F.linear fp32", x, weight, None),
    }
    if extras:
        sides["F.linear bf16"] = linear_bf16(x, weight, None)
        sides["torch CSR"] = torch_csr(x, weight, None)
    race(
        sides,
        "sparse_hamilton",
        useful(values, batch),
        suite="sparse_hamilton",
        subject=f"by {granularity}",
        case=name_of(size),
        batch=batch,
        density=density,
    )


@headline(size=(2048, 2048), batch=512, density=0.1, thread_count=1)
@over_large_sizes
@over_few_batches
@over_few_densities
@over_granularities
def test_dv(race, size, batch, density, granularity):
    values, pattern = operands(size, density, granularity)
    x, dy = normal(batch, size[0]), normal(batch, size[1], seed=2)
    whole = values.dim() == 2
    op = torch.ops.sparseq.sparse_hamilton_dv
    exact = sparse_hamilton_dv_reference(dy.double(), x.double(), pattern, whole)
    agrees(op(dy, x, pattern, whole), exact, "sparse_hamilton_dv")
    sides = {"sparseq": lambda: op(dy, x, pattern, whole), **dw_sides(dy, x)}
    race(
        sides,
        "sparse_hamilton_dv",
        useful(values, batch),
        suite="sparse_hamilton",
        subject=f"dv by {granularity}",
        case=name_of(size),
        batch=batch,
        density=density,
    )
