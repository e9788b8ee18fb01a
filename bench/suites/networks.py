"""Whole convolutional networks: sparse, on graphs and quaternion, against dense torch.

Inference runs in evaluation mode with batch normalization folded, on both sides. The dense side is
the quicker of torch's two memory layouts, and ONNX Runtime where it is installed.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines import agrees
from bench.cases import normal
from bench.timing import fastest
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


def inference(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """A call without gradients."""

    def call() -> Tensor:
        with torch.no_grad():
            return model(x)

    return call


def dense_inference(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """The quicker of torch's memory layouts."""
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    forms = {
        "contiguous": inference(model, x),
        "channels_last": inference(last, x.to(memory_format=torch.channels_last)),
    }
    return forms[fastest(forms)]


def onnx_runtime(model: nn.Module, x: Tensor) -> Callable[[], Any] | None:
    """ONNX Runtime on torch's threads, where it is installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about what it is built on
        torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(stream)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # its idle threads would spin through the turns of the others
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        stream.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


@over_names
@over_batches
@over_densities
def test_sparse_inference(race, name, batch, density):
    model = network(name)
    mask = prune(model, density=density, scope="layerwise", exclude=["out"])
    mask.apply_(model)
    dense = fold_batchnorm(model.eval())
    small = fold_batchnorm(compress(model.eval(), mask, "sparse"))
    x = normal(batch, *IMAGE)
    gate(small, dense, x)
    sides = {"sparseq": inference(small, x), "dense fp32": dense_inference(dense, x)}
    served = onnx_runtime(dense, x)
    if served is not None:
        sides["ONNX Runtime"] = served
    race(
        sides,
        "sparse_conv",
        suite="networks",
        subject=f"{name}, pruned",
        step="forward",
        batch=batch,
        density=density,
    )


@over_names
@over_batches
def test_quaternion_inference(race, name, batch):
    ours = network(name, algebra="quaternion").eval()
    dense = fold_batchnorm(network(name).eval())
    x = normal(batch, *IMAGE)
    gate(ours, to_dense(ours), x)
    sides = {
        "sparseq": inference(ours, x),
        "dense fp32": dense_inference(dense, x),
        "its real form": dense_inference(to_dense(ours), x),
    }
    race(
        sides,
        "hamilton_conv",
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

    def __init__(self, model: nn.Module, batch: int, mask: Mask | None = None) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9, nesterov=True)
        self.x, self.y = normal(batch, *IMAGE), torch.arange(batch) % 10
        if mask is not None:
            mask.enforce(model, self.optimizer)

    def __call__(self) -> Tensor:
        """One step."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss


def masked_twin(model: nn.Module) -> tuple[nn.Module, Mask]:
    """The dense network with the weights of a sparse one, and the mask of what it keeps."""
    dense = to_dense(model)
    kept = {
        f"{path}.weight": module.mask()
        for path, module in model.named_modules()
        if hasattr(module, "mask")
    }
    return dense, Mask(kept)


@pytest.mark.parametrize("name", ["vgg16bn", "resnet18"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_expander_training(race, name, graph):
    model = network(name, graph=graph, degree=DEGREE)
    dense, mask = masked_twin(model)
    first, second = Training(model, 32)(), Training(copy.deepcopy(dense), 32)()
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    sides = {
        "sparseq": Training(model, 32),
        "dense with a mask": Training(dense, 32, mask),
        "dense": Training(copy.deepcopy(dense), 32),
    }
    race(
        sides,
        "sparse_conv",
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


@over_names
@pytest.mark.parametrize("density", [0.1, 0.05], ids="density-{}".format)
def test_sparse_training(race, name, density):
    model = network(name)
    mask = prune(model, density=density, scope="layerwise", exclude=["out"])
    mask.apply_(model)
    small = compress(model, mask, "sparse")
    sides = {
        "sparseq": Training(small, 32),
        "dense with a mask": Training(model, 32, mask),
        "dense": Training(copy.deepcopy(model), 32),
    }
    race(
        sides,
        "sparse_conv",
        suite="networks",
        subject=f"{name}, pruned",
        step="training",
        batch=32,
        density=density,
    )


@over_names
def test_quaternion_training(race, name):
    sides = {
        "sparseq": Training(network(name, algebra="quaternion"), 32),
        "dense": Training(network(name), 32),
    }
    race(
        sides,
        "hamilton_conv",
        suite="networks",
        subject=f"{name}, quaternion",
        step="training",
        batch=32,
    )
