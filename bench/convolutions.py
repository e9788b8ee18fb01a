"""The convolution layers, whole calls: forward, and forward + backward with all gradients."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bench.baselines import CatThenConv, agrees
from bench.cases import name_of_map, normal, over_image_batches, over_maps, over_steps
from bench.layers import SEEDED, call_of
from sparseq.nn import QConv2d
from sparseq.ops.hamilton import fold_real


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
    race(sides, "hamilton_conv", suite="layers", subject="QConv2d", case=name_of_map(size),
         step=step, batch=batch)  # fmt: skip
