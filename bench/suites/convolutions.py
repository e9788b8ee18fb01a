"""The convolution layers, whole calls: forward, and forward + backward with all gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines import CatThenConv, agrees, in_layouts, onednn_inference, with_best
from bench.cases import (
    headline,
    name_of_map,
    normal,
    over_image_batches,
    over_maps,
    over_steps,
    random_mask,
    useful_flop,
)
from bench.suites.layers import SEEDED, call_of
from sparseq.nn import (
    ExpanderConv2d,
    ExpanderQConv2d,
    QConv2d,
    QConvTranspose2d,
    SparseConv2d,
    SparseQConv2d,
    to_dense,
)
from sparseq.ops.hamilton import real_weight

GATE = 4  # images that the gate looks at
DEGREE = 3


def real_kernel(layer: nn.Module) -> Tensor:
    """The kernel of the real convolution a layer computes; differentiable."""
    weight = layer.weight if isinstance(layer, QConv2d) else layer.dense_weight()
    real = isinstance(layer, SparseConv2d | ExpanderConv2d)
    return weight if real else real_weight(weight)


def gate(layer: nn.Module, x: Tensor, dy: Tensor) -> None:
    """Output and every gradient of the layer agree with the dense convolution in float64."""
    exact = copy.deepcopy(layer).double()
    x64, x32 = x.double().requires_grad_(), x.clone().requires_grad_()
    y64 = F.conv2d(x64, real_kernel(exact), exact.bias, padding=1)
    y32 = layer(x32)
    agrees(y32, y64.detach(), "output")
    names = ["x", *(name for name, _ in layer.named_parameters())]
    want = torch.autograd.grad(y64, [x64, *exact.parameters()], dy.double())
    got = torch.autograd.grad(y32, [x32, *layer.parameters()], dy)
    for name, a, b in zip(names, got, want, strict=True):
        agrees(a, b, f"gradient of {name}")


def dense_sides(real: nn.Module, x: Tensor, dy: Tensor, step: str):
    """The real convolution in the quicker of torch's layouts, and the best form.

    Training has no other: torch's convolutions and their gradients run in oneDNN already.
    """

    def in_layout(layout):
        images, grads = (t.to(memory_format=layout) for t in (x, dy))
        return call_of(copy.deepcopy(real).to(memory_format=layout), images, grads, step)

    others = onednn_inference(real, x) if step == "forward" else {}
    return with_best("nn.Conv2d fp32", in_layouts(in_layout), others)


def race_layer(race, layer, subject, size, batch, step, more=None):
    """Our layer, after its gate, against its real dense twin and `more` sides."""
    x = normal(batch, size[0], size[1], size[1])
    dy = normal(*x.shape, seed=2)
    gate(layer, x[:GATE], dy[:GATE])
    real = real_twin(layer)
    sides = {"sparseq": call_of(layer, x, dy, step), **dense_sides(real, x, dy, step)}
    for name, other in (more or {}).items():
        sides[name] = call_of(other, x, dy, step)
    kept = int(real.weight.count_nonzero())
    density = (
        {} if isinstance(layer, QConv2d) else {"density": round(kept / real.weight.numel(), 4)}
    )
    race(
        sides,
        op_of(layer),
        useful_flop(kept, batch * size[1] ** 2, step),
        suite="layers",
        subject=subject,
        case=name_of_map(size),
        step=step,
        batch=batch,
        **density,
    )


def real_twin(layer: nn.Module) -> nn.Module:
    """The layer of torch that computes the same."""
    while type(layer).__module__.startswith("sparseq"):
        layer = to_dense(layer)
    return layer


def op_of(layer: nn.Module) -> str:
    """The operator whose kernel serves the layer."""
    return "hamilton_conv" if isinstance(layer, QConv2d | QConvTranspose2d) else "sparse_conv"


def generator() -> torch.Generator:
    """Seeded."""
    return torch.Generator().manual_seed(SEEDED)


@headline(size=(128, 16), batch=32)
@headline(size=[(512, 4), (64, 32)], batch=32, thread_count=1)
@over_maps
@over_image_batches
@over_steps
def test_qconv2d(race, extras, size, batch, step):
    layer = QConv2d(size[0], size[0], 3, padding=1, generator=generator())
    more = {"cat then conv": CatThenConv(layer.weight, layer.bias, 1)} if extras else {}
    race_layer(race, layer, "QConv2d", size, batch, step, more)


@headline(size=(128, 16), batch=32, step="forward", thread_count=1)
@over_maps
@over_image_batches
@over_steps
def test_qconv_transpose2d(race, size, batch, step):
    layer = QConvTranspose2d(size[0], size[0], 3, padding=1, generator=generator())
    x = normal(batch, size[0], size[1], size[1])
    dy, real = normal(*x.shape, seed=2), real_twin(layer)
    gate_transposed(layer, real, x[:GATE], dy[:GATE])
    sides = {"sparseq": call_of(layer, x, dy, step), **dense_sides(real, x, dy, step)}
    race(
        sides,
        "hamilton_conv",
        useful_flop(real.weight.numel(), batch * size[1] ** 2, step),
        suite="layers",
        subject="QConvTranspose2d",
        case=name_of_map(size),
        step=step,
        batch=batch,
    )


def gate_transposed(layer: nn.Module, real: nn.Module, x: Tensor, dy: Tensor) -> None:
    """The output is torch's in float64, and the gradients those of our plain-torch form."""
    with torch.no_grad():
        agrees(layer(x), copy.deepcopy(real).double()(x.double()), "output")
    exact, results = copy.deepcopy(layer).double(), []
    for module, images, grads in ((layer, x.clone(), dy), (exact, x.double(), dy.double())):
        inputs = [images.requires_grad_(), *module.parameters()]
        results.append(torch.autograd.grad(module(images), inputs, grads))
    for ours, want in zip(*results, strict=True):
        agrees(ours, want, "gradient")


@headline(size=(128, 16), batch=32, density=0.1)
@headline(size=(512, 4), batch=1, density=0.1, step="forward", thread_count=1)
@over_maps
@over_image_batches
@over_steps
@pytest.mark.parametrize("density", [0.1, 0.02], ids="density-{}".format)
def test_sparse_conv2d(race, size, batch, step, density):
    dense = nn.Conv2d(size[0], size[0], 3, padding=1)
    nn.init.normal_(dense.weight, 0, 0.1, generator=generator())
    nn.init.zeros_(dense.bias)
    mask = random_mask(size[0], 9 * size[0], density).view_as(dense.weight)
    race_layer(race, SparseConv2d.from_dense(dense, mask), "SparseConv2d", size, batch, step)


@headline(size=(128, 16), batch=32, density=0.1, thread_count=1)
@over_maps
@over_image_batches
@over_steps
@pytest.mark.parametrize("density", [0.1, 0.02], ids="density-{}".format)
@pytest.mark.parametrize("granularity", ["component", "quaternion"])
def test_sparse_qconv2d(race, size, batch, step, density, granularity):
    dense = QConv2d(size[0], size[0], 3, padding=1, generator=generator())
    rows = dense.weight.shape[1] * (4 if granularity == "component" else 1)
    keep = random_mask(rows, dense.weight[0, 0].numel(), density)
    keep = keep.view(-1, *dense.weight.shape[1:]).expand_as(dense.weight)
    layer = SparseQConv2d.from_dense(dense, keep, granularity)
    race_layer(race, layer, f"SparseQConv2d by {granularity}", size, batch, step)


@headline(graph="regular", height=8, batch=32)
@over_image_batches
@over_steps
@pytest.mark.parametrize("height", [4, 8, 16], ids="{0}x{0}".format)
@pytest.mark.parametrize("graph", ["regular", "xnet", "random"])
def test_expander_conv2d(race, graph, height, batch, step):
    layer = ExpanderConv2d(512, 512, 3, DEGREE, graph, padding=1, generator=generator())
    subject = f"ExpanderConv2d {graph}, degree {DEGREE}"
    race_layer(race, layer, subject, (512, height), batch, step)


@headline(size=(128, 16), batch=32, thread_count=1)
@over_maps
@over_image_batches
@over_steps
def test_expander_qconv2d(race, size, batch, step):
    layer = ExpanderQConv2d(size[0], size[0], 3, DEGREE, padding=1, generator=generator())
    race_layer(race, layer, f"ExpanderQConv2d regular, degree {DEGREE}", size, batch, step)
