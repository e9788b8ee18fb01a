"""`sddmm`, the gradient of a sparse layer's values, against the dense gradient it replaces."""

from __future__ import annotations

from bench.baselines import agrees, dw_sides
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
from sparseq.ops.sddmm import sddmm


@headline(size=(2048, 2048), batch=512)
@headline(size=(1024, 1024), batch=16, density=0.1, thread_count=1)
@over_large_sizes
@over_few_batches
@over_few_densities
def test_sddmm(race, size, batch, density):
    k, m = size
    pattern = random_pattern(m, k, density)
    x, dy = normal(batch, k), normal(batch, m, seed=1)
    exact = pattern.gather(dy.double().t() @ x.double())
    agrees(sddmm(dy, x, pattern), exact, "sddmm")
    sides = {"sparseq": lambda: sddmm(dy, x, pattern), **dw_sides(dy, x)}
    race(
        sides,
        "sddmm",
        useful_flop(pattern.nnz, batch),
        suite="sddmm",
        subject="sddmm",
        case=name_of(size),
        batch=batch,
        density=density,
    )
