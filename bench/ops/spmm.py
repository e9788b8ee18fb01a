"""`spmm` in both directions against the dense product and torch's CSR."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from bench.baselines import agrees, linear_bf16, linear_sides, torch_csr
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
from sparseq.ops.spmm import dense_matrix, spmm


@headline(size=(2048, 2048), batch=512, transposed=False)
@headline(size=(2048, 2048), batch=512, density=0.1, thread_count=1)
@headline(size=(1024, 1024), batch=16, density=0.1, transposed=False, thread_count=1)
@over_large_sizes
@over_few_batches
@over_few_densities
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "transposed"])
def test_spmm(race, extras, size, batch, density, transposed):
    k, m = size
    pattern = random_pattern(m, k, density)
    values = normal(pattern.nnz, seed=1)
    matrix = dense_matrix(values, pattern.tensors)
    weight = matrix.t().contiguous() if transposed else matrix
    x = normal(batch, weight.shape[1], seed=2)

    def ours():
        return spmm(x, values, pattern, None, transposed)

    agrees(ours(), F.linear(x.double(), weight.double()), "spmm")
    sides = {"sparseq": ours, **linear_sides("F.linear fp32", x, weight, None)}
    if extras:
        sides["F.linear bf16"] = linear_bf16(x, weight, None)
        sides["torch CSR"] = torch_csr(x, weight, None)
        agrees(sides["torch CSR"](), F.linear(x.double(), weight.double()), "torch CSR")
    race(
        sides,
        "spmm",
        useful_flop(pattern.nnz, batch),
        suite="spmm",
        subject="spmm transposed" if transposed else "spmm",
        case=name_of(size),
        batch=batch,
        density=density,
    )
