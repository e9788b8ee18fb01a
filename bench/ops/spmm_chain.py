"""`spmm_chain` against the same maps one by one, and against the dense network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from bench.baselines import agrees, network_sides
from bench.cases import headline, normal, over_densities, random_mask, useful_flop_of
from sparseq.nn import SparseLinear
from sparseq.nn.inference.runs import find_runs
from sparseq.ops.spmm_chain import spmm_chain

WIDTHS = {"784-300-100-10": (784, 300, 100, 10), "4 x 2048": (2048,) * 5}


def networks(widths: tuple[int, ...], density: float) -> tuple[nn.Sequential, nn.Sequential]:
    """Linear layers with ReLU between them, dense with zeros and sparse."""
    dense, sparse = [], []
    for seed, (k, m) in enumerate(pairwise(widths)):
        linear = nn.Linear(k, m)
        nn.init.normal_(
            linear.weight,
            0,
            (2 / k / density) ** 0.5,
            generator=torch.Generator().manual_seed(seed),
        )
        sparse += [SparseLinear.from_dense(linear, random_mask(m, k, density, seed)), nn.ReLU()]
        dense += [sparse[-2].to_dense(), nn.ReLU()]
    return nn.Sequential(*dense[:-1]), nn.Sequential(*sparse[:-1])


@headline(case="4 x 2048", batch=64, density=0.05)
@headline(case="784-300-100-10", batch=16, density=0.05, thread_count=1)
@pytest.mark.parametrize("case", WIDTHS)
@pytest.mark.parametrize("batch", [1, 16, 64, 512], ids="batch-{}".format)
@over_densities
def test_spmm_chain(race, case, batch, density):
    dense, layers = networks(WIDTHS[case], density)
    run = find_runs(list(layers))[0]
    maps = (*run.tensors(), run.relu)
    x = normal(batch, WIDTHS[case][0])
    with torch.no_grad():
        exact = dense.double()(x.double())
        agrees(spmm_chain(x, *maps), exact, "spmm_chain")
        agrees(layers(x), exact, "layers")
        dense.float()
        sides = {
            "sparseq": lambda: spmm_chain(x, *maps),
            "layer by layer": lambda: layers(x),
            **network_sides(dense, x),
        }
        race(
            sides,
            "spmm_chain",
            useful_flop_of(dense, x),
            suite="spmm_chain",
            subject="spmm_chain",
            case=case,
            batch=batch,
            density=density,
        )
