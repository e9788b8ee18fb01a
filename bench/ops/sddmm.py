"""`sddmm`, the gradient of a sparse layer's values, against the dense gradient it replaces."""

from __future__ import annotations

from bench.baselines import agrees
from bench.cases import (
    name_of,
    normal,
    over_few_batches,
    over_few_densities,
    over_large_sizes,
    random_pattern,
)
from sparseq.ops.sddmm import sddmm


@over_large_sizes
@over_few_batches
@over_few_densities
def test_sddmm(race, size, batch, density):
    k, m = size
    pattern = random_pattern(m, k, density)
    x, dy = normal(batch, k), normal(batch, m, seed=1)
    exact = pattern.gather(dy.double().t() @ x.double())
    agrees(sddmm(dy, x, pattern.tensors), exact, "sddmm")
    sides = {
        "sparseq": lambda: sddmm(dy, x, pattern.tensors),
        "dense fp32": lambda: dy.t() @ x,
    }
    race(
        sides,
        "sddmm",
        suite="sddmm",
        subject="sddmm",
        case=name_of(size),
        batch=batch,
        density=density,
    )
