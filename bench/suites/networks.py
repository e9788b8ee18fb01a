"""Whole convolutional networks: sparse, on graphs and quaternion, against dense torch.

Inference runs in evaluation mode with batch normalization folded, on both sides. The dense sides
are the quicker of torch's two memory layouts, as users run it; the best form, oneDNN with prepared
weights among them; and ONNX Runtime where it is installed. Convolutions train in oneDNN already.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines import (
    agrees,
    in_layouts,
    inference,
    network_sides,
    onnx_runtime,
    with_best,
)
from bench.cases import headline, normal, useful_flop_of
from sparseq.compression.sparsify import compress
from sparseq.models import build
from sparseq.nn import fold_batchnorm
from sparseq.nn.convert import to_dense
from sparseq.pruning import Mask, prune

NAMES = ["conv_4", "vgg16bn", "resnet18", "resnet50"]
GRAPHS = ["regular", "xnet", "random"]
DEGREE = 3
IMAGE = (3, 32, 32)
DENSITIES = [0.1, 0.05, 0.01]
GATE = 2  # images that the gate looks at

over_names = pytest.mark.parametrize("name", NAMES)
over_batches = pytest.mark.parametrize("batch", [1, 32], ids="batch-{}".format)
over_densities = pytest.mark.parametrize("density", DENSITIES, ids="density-{}".format)


def network(name: str, **options: Any) -> nn.Module:
    """A seeded network whose normalization has seen data."""
    model = build(name, in_shape=IMAGE, seed=1, **options)
    with torch.no_grad():
        for _ in range(3):
            model(normal(8, *IMAGE))
    return model


@lru_cache(4)
def dense_network(name: str) -> nn.Module:
    """The folded dense network for inference."""
    return fold_batchnorm(network(name).eval())


@lru_cache(8)
def pruned_networks(name: str, density: float) -> tuple[nn.Module, nn.Module]:
    """A folded sparse network for inference, and the dense one with its weights."""
    model = network(name)
    mask = prune(model, density=density, scope="layerwise", exclude=["out"])
    mask.apply_(model)
    model.eval()
    return fold_batchnorm(compress(model, mask, "sparse")), fold_batchnorm(model)


@headline(name="vgg16bn", batch=32, density=[0.1, 0.01])
@headline(name=["vgg16bn", "resnet18"], batch=1, density=0.05)
@headline(name=["conv_4", "resnet18", "resnet50"], batch=32, density=0.1)
@over_names
@over_batches
@over_densities
def test_sparse_inference(race, remark, name, batch, density):
    small, dense = pruned_networks(name, density)
    x = normal(batch, *IMAGE)
    gate(small, dense, x)
    sides = {"sparseq": inference(small, x), **network_sides(dense, x)}
    sides.update(onnx_runtime(dense_network(name), x, remark))
    race(
        sides,
        "sparse_conv",
        useful_flop_of(dense, x),
        suite="networks",
        subject=f"{name}, pruned",
        step="forward",
        batch=batch,
        density=density,
    )


@headline(name="vgg16bn")
@headline(name=["conv_4", "resnet18", "resnet50"], batch=1, thread_count=1)
@over_names
@over_batches
def test_quaternion_inference(race, extras, name, batch):
    ours = network(name, algebra="quaternion").eval()
    x, real = normal(batch, *IMAGE), to_dense(ours)
    gate(ours, real, x)
    sides = {"sparseq": inference(ours, x), **network_sides(dense_network(name), x)}
    if extras:
        sides["its real form"] = network_sides(real, x)["dense fp32"]
    race(
        sides,
        "hamilton_conv",
        useful_flop_of(real, x),
        suite="networks",
        subject=f"{name}, quaternion",
        step="forward",
        batch=batch,
    )


def gate(ours: nn.Module, dense: nn.Module, x: Tensor) -> None:
    """The network computes what the dense one does in float64."""
    with torch.no_grad():
        exact = copy.deepcopy(dense).double()(x[:GATE].double())
        agrees(ours(x[:GATE]), exact, "network")


class Training:
    """Steps of SGD with momentum on one batch; a mask, where there is one, is enforced."""

    def __init__(
        self,
        model: nn.Module,
        batch: int,
        mask: Mask | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.model = model.train().to(memory_format=layout)
        self.optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9, nesterov=True)
        self.x = normal(batch, *IMAGE).to(memory_format=layout)
        self.y = torch.arange(batch) % 10
        if mask is not None:
            mask.enforce(model, self.optimizer)

    def __call__(self) -> Tensor:
        """One step."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss


def training_sides(dense: nn.Module, batch: int, mask: Mask | None) -> dict[str, Callable]:
    """Steps of the dense network in the quicker layout, and under a mask."""

    def in_layout(layout: torch.memory_format) -> Training:
        return Training(copy.deepcopy(dense), batch, None, layout)

    masked = {} if mask is None else {"dense with a mask": Training(dense, batch, mask)}
    return {**with_best("dense fp32", in_layouts(in_layout), {}), **masked}


def masked_twin(model: nn.Module) -> tuple[nn.Module, Mask]:
    """The dense network with the weights of a sparse one, and the mask of what it keeps."""
    dense = to_dense(model)
    kept = {
        f"{path}.weight": module.mask()
        for path, module in model.named_modules()
        if hasattr(module, "mask")
    }
    return dense, Mask(kept)


@headline(graph="regular", name="vgg16bn")
@headline(graph="regular", name="resnet18", thread_count=1)
@pytest.mark.parametrize("name", ["vgg16bn", "resnet18"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_expander_training(race, name, graph):
    model = network(name, graph=graph, degree=DEGREE)
    dense, mask = masked_twin(model)
    first, second = Training(model, 32)(), Training(copy.deepcopy(dense), 32)()
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    useful = useful_flop_of(dense, normal(32, *IMAGE), "training")
    sides = {"sparseq": Training(model, 32), **training_sides(dense, 32, mask)}
    race(
        sides,
        "sparse_conv",
        useful,
        suite="networks",
        subject=f"{name} on {graph}, degree {DEGREE}",
        step="training",
        batch=32,
        density=round(mask.density, 4),
    )


def resident(what: str) -> int:
    """Bytes of this process that are (VmRSS) or were at most (VmHWM) in memory; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def peak_bytes(name: str, graph: str, masked: bool) -> int:
    """Largest resident memory of three training steps beyond what the process had before."""
    before = resident("VmRSS")
    torch.set_num_threads(1)
    model = build(name, in_shape=IMAGE, seed=1, graph=graph, degree=DEGREE)
    model, mask = masked_twin(model) if masked else (model, None)
    step = Training(model, 32, mask)
    for _ in range(3):
        step()
    return resident("VmHWM") - before


@headline(name="vgg16bn")
@pytest.mark.parametrize("name", ["vgg16bn", "resnet18"])
def test_expander_memory(record, name):
    found = []
    for masked in (False, True):
        with get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(peak_bytes, (name, GRAPHS[0], masked)))
    record(
        suite="networks_memory",
        subject=f"{name} on {GRAPHS[0]}, degree {DEGREE}",
        batch=32,
        step="training",
        ours_mb=round(found[0] / 1e6),
        masked_mb=round(found[1] / 1e6),
        ratio=round(found[1] / found[0], 2),
    )


@headline(name="vgg16bn", density=0.1)
@over_names
@pytest.mark.parametrize("density", [0.1, 0.05], ids="density-{}".format)
def test_sparse_training(race, name, density):
    model = network(name)
    mask = prune(model, density=density, scope="layerwise", exclude=["out"])
    mask.apply_(model)
    small = compress(model, mask, "sparse")
    useful = useful_flop_of(model, normal(32, *IMAGE), "training")
    sides = {"sparseq": Training(small, 32), **training_sides(model, 32, mask)}
    race(
        sides,
        "sparse_conv",
        useful,
        suite="networks",
        subject=f"{name}, pruned",
        step="training",
        batch=32,
        density=density,
    )


@headline(name="vgg16bn", thread_count=1)
@over_names
def test_quaternion_training(race, name):
    ours = network(name, algebra="quaternion")
    useful = useful_flop_of(to_dense(ours), normal(32, *IMAGE), "training")
    sides = {"sparseq": Training(ours, 32), **training_sides(network(name), 32, None)}
    race(
        sides,
        "hamilton_conv",
        useful,
        suite="networks",
        subject=f"{name}, quaternion",
        step="training",
        batch=32,
    )
