"""`sparse_conv_chain` against the same layers one by one, and against the dense network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from bench.baselines import agrees, network_sides
from bench.cases import headline, normal, random_mask, useful_flop_of
from sparseq.nn import SparseConv2d
from sparseq.nn.inference.runs import find_runs

# channels of 3x3 convolutions on 32x32 maps; "M" halves the map
STACKS = {
    "conv_4": (3, 64, 64, "M", 128, 128, "M"),
    "VGG16": (3, 64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3, "M"),
}


def networks(name: str, density: float) -> tuple[nn.Sequential, nn.Sequential]:
    """Convolutions, ReLU and max pooling, dense with zeros and sparse."""
    places = [i for i, entry in enumerate(STACKS[name]) if entry != "M"]
    dense: list[nn.Module] = []
    sparse: list[nn.Module] = []
    for before, i in pairwise(places):
        k, m = STACKS[name][before], STACKS[name][i]
        conv = nn.Conv2d(int(k), int(m), 3, padding=1)
        nn.init.normal_(
            conv.weight,
            0,
            (2 / (9 * int(k)) / density) ** 0.5,
            generator=torch.Generator().manual_seed(i),
        )
        mask = random_mask(int(m), 9 * int(k), density, i).view_as(conv.weight)
        sparse += [SparseConv2d.from_dense(conv, mask), nn.ReLU()]
        dense += [sparse[-2].to_dense(), nn.ReLU()]
        if STACKS[name][i + 1 : i + 2] == ("M",):
            sparse.append(nn.MaxPool2d(2))
            dense.append(nn.MaxPool2d(2))
    return nn.Sequential(*dense), nn.Sequential(*sparse)


@headline(name="VGG16", batch=32, density=0.1)
@headline(name="VGG16", batch=1, density=0.05, thread_count=1)
@headline(name="conv_4", batch=32, density=0.05, thread_count=1)
@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("batch", [1, 4, 16, 32], ids="batch-{}".format)
@pytest.mark.parametrize("density", [0.1, 0.05, 0.01], ids="density-{}".format)
def test_sparse_conv_chain(race, name, batch, density):
    dense, layers = networks(name, density)
    chain = find_runs(list(layers))[0]
    x = normal(batch, 3, 32, 32)
    with torch.no_grad():
        exact = dense.double()(x.double())
        agrees(chain(x), exact, "sparse_conv_chain")
        agrees(layers(x), exact, "layers")
        dense.float()
        sides = {
            "sparseq": lambda: chain(x),
            "layer by layer": lambda: layers(x),
            **network_sides(dense, x),
        }
        race(
            sides,
            "sparse_conv_chain",
            useful_flop_of(dense, x),
            suite="sparse_conv_chain",
            subject="sparse_conv_chain",
            case=name,
            batch=batch,
            density=density,
        )
