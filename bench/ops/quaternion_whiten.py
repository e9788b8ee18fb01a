"""`quaternion_whiten` and `QBatchNorm2d` against `nn.BatchNorm2d` on maps of CIFAR's sizes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bench.baselines import agrees
from bench.cases import headline, over_steps
from bench.ops.quaternion_norm import MAPS, maps, name_of
from sparseq.nn import QBatchNorm2d

SMALL = (16, 16)  # channels, height and width of a small network's maps
over_batches = pytest.mark.parametrize("batch", [1, 32], ids="batch-{}".format)


def call_of(layer: nn.Module, x: Tensor, dy: Tensor, step: str):
    """What is timed: evaluation without a graph, or a training step with all gradients."""
    if step == "forward":
        layer.requires_grad_(False).eval()
        return lambda: layer(x)
    inputs = [x.detach().clone().requires_grad_(), *layer.requires_grad_().train().parameters()]
    return lambda: torch.autograd.grad(layer(inputs[0]), inputs, dy)


def gate(layer: nn.Module, x: Tensor, dy: Tensor) -> None:
    """Output and gradients of a training step agree with float64."""
    exact, own = copy.deepcopy(layer).double(), copy.deepcopy(layer)
    results = []
    for module, features, grad in ((own, x.clone(), dy), (exact, x.double(), dy.double())):
        inputs = [features.requires_grad_(), *module.parameters()]
        y = module(features)
        results.append([y.detach(), *torch.autograd.grad(y, inputs, grad)])
    for ours, want in zip(*results, strict=True):
        agrees(ours, want, "QBatchNorm2d")


@headline(size=(64, 32), batch=32)
@headline(size=SMALL, batch=1, mode="whiten", thread_count=1)
@pytest.mark.parametrize("size", [*MAPS, SMALL], ids=name_of)
@over_batches
@over_steps
@pytest.mark.parametrize("mode", ["whiten", "split"])
def test_layer(race, size, batch, step, mode):
    x, dy = maps(size, batch), maps(size, batch, seed=1)
    layer = QBatchNorm2d(size[0], mode=mode)
    gate(layer, x, dy)
    sides = {
        "sparseq": call_of(layer, x, dy, step),
        "nn.BatchNorm2d": call_of(nn.BatchNorm2d(size[0]), x, dy, step),
    }
    race(
        sides,
        "quaternion_whiten",
        suite="quaternion_whiten",
        subject=f"QBatchNorm2d, {mode}",
        case=name_of(size),
        step=step,
        batch=batch,
    )
