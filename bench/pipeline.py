"""Whole networks, compressed, against the dense ones they came from."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from bench.baselines import agrees
from bench.cases import normal, over_densities, over_steps
from bench.layers import call_of
from sparseq.compression import compress
from sparseq.models import build
from sparseq.nn import to_dense
from sparseq.pruning import prune

BATCHES = [1, 64, 512]


def mlp(width: int = 2048, depth: int = 4) -> nn.Sequential:
    """`depth` square layers with ReLU between them."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(depth):
        linear = layers[f"fc{number}"] = nn.Linear(width, width)
        nn.init.kaiming_normal_(linear.weight, generator=torch.Generator().manual_seed(number))
        nn.init.zeros_(linear.bias)
        layers[f"relu{number}"] = nn.ReLU()
    return nn.Sequential(layers)


NETWORKS = {
    "lenet_300_100": (lambda: build("lenet_300_100"), (1, 28, 28)),
    "lenet_300_100 quaternion": (
        lambda: build("lenet_300_100", algebra="quaternion"),
        (1, 28, 28),
    ),
    "mlp 4x2048": (mlp, (2048,)),
}


def real_twin(model: nn.Module) -> nn.Module:
    """The model in nn.Linear layers alone."""
    while any(type(layer).__module__.startswith("sparseq") for layer in model.modules()):
        model = to_dense(model)
    return model


def gate(small: nn.Module, dense: nn.Module, x: Tensor) -> None:
    """The compressed network computes what the dense one does in float64."""
    with torch.no_grad():
        agrees(small(x), copy.deepcopy(dense).double()(x.double()), "network")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", BATCHES, ids="batch-{}".format)
@over_densities
@over_steps
def test_compressed(race, name, batch, density, step):
    make, shape = NETWORKS[name]
    model = make()
    mask = prune(model, density=density)
    mask.apply_(model)
    small, dense = compress(model, mask), real_twin(model)
    x = normal(batch, *shape)
    gate(small, dense, x)
    dy = torch.ones_like(dense(x)).detach()
    low = copy.deepcopy(dense).bfloat16()
    sides = {
        "sparseq": call_of(small, x, dy, step),
        "dense fp32": call_of(dense, x, dy, step),
        "dense bf16": call_of(low, x.bfloat16(), dy.bfloat16(), step),
    }
    race(sides, "spmm", suite="pipeline", subject=name, step=step, batch=batch, density=density)
