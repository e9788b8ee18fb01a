"""`quaternion_norm` and `QBatchNorm2d` against `nn.BatchNorm2d` on maps of CIFAR's sizes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bench.baselines import agrees
from bench.cases import normal, over_steps
from sparseq.nn import QBatchNorm2d
from sparseq.ops.quaternion_norm import quaternion_cross, quaternion_moments, quaternion_norm

MAPS = [(64, 32), (256, 8), (512, 4)]  # channels, height and width
PARTS = ["quaternion_norm", "quaternion_norm_moments", "quaternion_norm_cross"]
over_maps = pytest.mark.parametrize("size", MAPS, ids="{0[0]}x{0[1]}x{0[1]}".format)
over_batches = pytest.mark.parametrize("batch", [1, 32], ids="batch-{}".format)


def maps(size: tuple[int, int], batch: int, seed: int = 0) -> Tensor:
    """Features (batch, channels, height, width)."""
    channels, side = size
    return normal(batch, channels, side, side, seed=seed)


def name_of(size: tuple[int, int]) -> str:
    """64x32x32: channels, height, width."""
    return f"{size[0]}x{size[1]}x{size[1]}"


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


@over_maps
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
    race(sides, "quaternion_norm", suite="quaternion_norm", subject=f"QBatchNorm2d, {mode}",
         case=name_of(size), step=step, batch=batch)  # fmt: skip


@over_maps
@pytest.mark.parametrize("name", PARTS)
def test_operators(race, size, name):
    x, dy = maps(size, 32), maps(size, 32, seed=1)
    matrix, center = normal(4, 4, size[0] // 4, seed=2), normal(size[0], seed=3)
    calls = {
        "quaternion_norm": (lambda: quaternion_norm(x, matrix, center), lambda: x * 2),
        "quaternion_norm_moments": (
            lambda: quaternion_moments(x),
            lambda: torch.var_mean(x, (0, 2, 3)),
        ),
        "quaternion_norm_cross": (
            lambda: quaternion_cross(dy, x, center),
            lambda: (dy * x).sum((0, 2, 3)),
        ),
    }
    ours, plain = calls[name]
    race({"sparseq": ours, "one real channel at a time": plain}, name, suite="quaternion_norm",
         subject=name, case=name_of(size), batch=32)  # fmt: skip
