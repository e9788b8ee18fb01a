"""The convolution layers, whole calls: forward, and forward + backward with all gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines import CatThenConv, agrees
from bench.cases import name_of_map, normal, over_image_batches, over_maps, over_steps
from bench.layers import SEEDED, call_of
from sparseq.nn import ExpanderConv2d, QConv2d
from sparseq.ops.hamilton import fold_real

GATE = 4  # images that the gate of wide layers looks at


def gate(layer: QConv2d, real: nn.Conv2d, x: Tensor, dy: Tensor) -> None:
    """Output and every gradient of the layer agree with the real layer's in float64."""
    exact = copy.deepcopy(real).double()
    x64, x32 = x.double().requires_grad_(), x.clone().requires_grad_()
    y64, y32 = exact(x64), layer(x32)
    agrees(y32, y64.detach(), "output")
    dx, dw, db = torch.autograd.grad(y64, [x64, exact.weight, exact.bias], dy.double())
    got = torch.autograd.grad(y32, [x32, layer.weight, layer.bias], dy)
    for name, a, b in zip(["x", "weight", "bias"], got, (dx, fold_real(dw), db), strict=True):
        agrees(a, b, f"gradient of {name}")


@over_maps
@over_image_batches
@over_steps
def test_qconv2d(race, size, batch, step):
    channels, height = size
    generator = torch.Generator().manual_seed(SEEDED)
    layer = QConv2d(channels, channels, 3, padding=1, generator=generator)
    real, x = layer.to_dense(), normal(batch, channels, height, height)
    dy = normal(*x.shape, seed=2)
    gate(layer, real, x, dy)
    sides = {
        "sparseq": call_of(layer, x, dy, step),
        "nn.Conv2d fp32": call_of(real, x, dy, step),
        "cat then conv": call_of(CatThenConv(layer.weight, layer.bias, 1), x, dy, step),
    }
    race(
        sides,
        "hamilton_conv",
        suite="layers",
        subject="QConv2d",
        case=name_of_map(size),
        step=step,
        batch=batch,
    )


def gate_expander(layer: ExpanderConv2d, x: Tensor, dy: Tensor) -> None:
    """Output and every gradient of the layer agree with the dense convolution in float64."""
    exact = copy.deepcopy(layer).double()
    x64, x32 = x.double().requires_grad_(), x.clone().requires_grad_()
    y64 = F.conv2d(x64, exact.dense_weight(), exact.bias, padding=1)
    y32 = layer(x32)
    agrees(y32, y64.detach(), "output")
    want = torch.autograd.grad(y64, [x64, exact.values, exact.bias], dy.double())
    got = torch.autograd.grad(y32, [x32, layer.values, layer.bias], dy)
    for name, a, b in zip(["x", "values", "bias"], got, want, strict=True):
        agrees(a, b, f"gradient of {name}")


@over_image_batches
@over_steps
@pytest.mark.parametrize("height", [4, 8, 16], ids="{0}x{0}".format)
@pytest.mark.parametrize("graph", ["regular", "xnet", "random"])
def test_expander_conv2d(race, graph, height, batch, step):
    layer = ExpanderConv2d(
        512, 512, 3, 3, graph, padding=1, generator=torch.Generator().manual_seed(SEEDED)
    )
    x = normal(batch, 512, height, height)
    dy = normal(*x.shape, seed=2)
    gate_expander(layer, x[:GATE], dy[:GATE])
    sides = {
        "sparseq": call_of(layer, x, dy, step),
        "nn.Conv2d fp32": call_of(layer.to_dense(), x, dy, step),
    }
    race(
        sides,
        "sparse_conv",
        suite="layers",
        subject=f"ExpanderConv2d {graph}, degree 3",
        case=name_of_map((512, height)),
        step=step,
        batch=batch,
        density=round(layer.density, 4),
    )
