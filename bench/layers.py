"""The layers, whole public calls: module forward, and forward + backward with all gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines import CatThenLinear, agrees, torch_csr
from bench.cases import (
    name_of,
    normal,
    over_batches,
    over_densities,
    over_large_sizes,
    over_sizes,
    over_steps,
    random_mask,
)
from sparseq.graphs import Graph
from sparseq.graphs.regular import Regular
from sparseq.nn import ExpanderLinear, QLinear, SparseLinear, SparseQLinear
from sparseq.ops.hamilton import real_weight

SEEDED = 1
Layer = QLinear | SparseLinear | SparseQLinear | ExpanderLinear


def real_matrix(layer: Layer) -> Tensor:
    """The (out, in) matrix a layer multiplies by, in plain torch; differentiable."""
    if isinstance(layer, SparseLinear | ExpanderLinear):
        return layer.dense_weight()
    return real_weight(layer.dense_weight() if isinstance(layer, SparseQLinear) else layer.weight)


def gate(layer: Layer, x: Tensor, dy: Tensor) -> None:
    """Output and every gradient of the layer agree with float64."""
    exact = copy.deepcopy(layer).double()
    x64 = x.detach().double().requires_grad_()
    y64 = F.linear(x64, real_matrix(exact), exact.bias)
    x32 = x.detach().clone().requires_grad_()
    y32 = layer(x32)
    agrees(y32, y64.detach(), "output")
    got = torch.autograd.grad(y32, [x32, *layer.parameters()], dy)
    want = torch.autograd.grad(y64, [x64, *exact.parameters()], dy.double())
    names = ["x", *(name for name, _ in layer.named_parameters())]
    for name, a, b in zip(names, got, want, strict=True):
        agrees(a, b, f"gradient of {name}")


def call_of(layer: nn.Module, x: Tensor, dy: Tensor, step: str):
    """What is timed: the forward pass without a graph, or forward + backward."""
    if step == "forward":
        layer.requires_grad_(False)
        return lambda: layer(x)
    inputs = [x.detach().clone().requires_grad_(), *layer.requires_grad_().parameters()]
    return lambda: torch.autograd.grad(layer(inputs[0]), inputs, dy)


def dense_sides(linear: nn.Linear, x: Tensor, dy: Tensor, step: str):
    """nn.Linear of the same real size in fp32 and bf16."""
    low = copy.deepcopy(linear).bfloat16()
    return {
        "nn.Linear fp32": call_of(linear, x, dy, step),
        "nn.Linear bf16": call_of(low, x.bfloat16(), dy.bfloat16(), step),
    }


def data_of(size: tuple[int, int], batch: int) -> tuple[Tensor, Tensor]:
    """x (batch, in) and the gradient dy (batch, out)."""
    return normal(batch, size[0]), normal(batch, size[1], seed=2)


def quaternion_layer(size: tuple[int, int]) -> QLinear:
    """A seeded QLinear of that real size."""
    return QLinear(*size, generator=torch.Generator().manual_seed(SEEDED))


@over_sizes
@over_batches
@over_steps
def test_qlinear(race, size, batch, step):
    x, dy = data_of(size, batch)
    layer = quaternion_layer(size)
    gate(layer, x, dy)
    sides = {"sparseq": call_of(layer, x, dy, step)}
    sides.update(dense_sides(layer.to_dense(), x, dy, step))
    sides["cat then linear"] = call_of(CatThenLinear(layer.weight, layer.bias), x, dy, step)
    race(
        sides,
        "hamilton",
        suite="layers",
        subject="QLinear",
        case=name_of(size),
        step=step,
        batch=batch,
    )


@over_sizes
@over_batches
@over_densities
@over_steps
def test_sparse_linear(race, size, batch, density, step):
    x, dy = data_of(size, batch)
    k, m = size
    dense = nn.Linear(k, m)
    nn.init.normal_(dense.weight, generator=torch.Generator().manual_seed(SEEDED))
    nn.init.zeros_(dense.bias)
    layer = SparseLinear.from_dense(dense, random_mask(m, k, density))
    gate(layer, x, dy)
    sides = {"sparseq": call_of(layer, x, dy, step)}
    sides.update(dense_sides(layer.to_dense(), x, dy, step))
    if step == "forward":
        sides["torch CSR"] = torch_csr(x, real_matrix(layer), layer.bias)
    race(
        sides,
        "spmm",
        suite="layers",
        subject="SparseLinear",
        case=name_of(size),
        step=step,
        batch=batch,
        density=density,
    )


@over_sizes
@over_batches
@over_densities
@over_steps
@pytest.mark.parametrize("granularity", ["component", "quaternion"])
def test_sparse_qlinear(race, size, batch, density, step, granularity):
    x, dy = data_of(size, batch)
    k, m = size
    whole = granularity == "quaternion"
    mask = random_mask(m // 4 if whole else m, k // 4, density).view(-1, m // 4, k // 4)
    layer = SparseQLinear.from_dense(
        quaternion_layer(size), mask.expand(4, -1, -1), granularity=granularity
    )
    gate(layer, x, dy)
    sides = {"sparseq": call_of(layer, x, dy, step)}
    sides.update(dense_sides(layer.to_dense().to_dense(), x, dy, step))
    sides["QLinear"] = call_of(layer.to_dense(), x, dy, step)
    race(
        sides,
        "sparse_hamilton",
        suite="layers",
        subject=f"SparseQLinear by {granularity}",
        case=name_of(size),
        step=step,
        batch=batch,
        density=density,
    )


@over_large_sizes
@over_batches
@over_steps
@pytest.mark.parametrize("degree", [16, 64], ids="degree-{}".format)
def test_expander_linear(race, size, batch, step, degree):
    layer = expander(size, degree, Regular(tries=1))
    race_expander(race, layer, size, batch, step, f"regular degree {degree}")


@over_large_sizes
@over_batches
@over_steps
@pytest.mark.parametrize("part", [8, 16], ids="one-in-{}".format)
@pytest.mark.parametrize("block", [16, 64], ids="block-{}".format)
def test_block_linear(race, size, batch, step, block, part):
    layer = expander(size, size[0] // part, f"block({block})")
    race_expander(race, layer, size, batch, step, f"block({block})")


def expander(size: tuple[int, int], degree: int, graph: str | Graph) -> ExpanderLinear:
    """A seeded ExpanderLinear."""
    return ExpanderLinear(
        size[0], size[1], degree, graph, generator=torch.Generator().manual_seed(SEEDED)
    )


def race_expander(race, layer, size, batch, step, name):
    """Against dense layers, and our CSR layer with equally many weights."""
    x, dy = data_of(size, batch)
    gate(layer, x, dy)
    sides = {"sparseq": call_of(layer, x, dy, step)}
    sides.update(dense_sides(layer.to_dense(), x, dy, step))
    sides["SparseLinear"] = call_of(SparseLinear.from_dense(layer.to_dense()), x, dy, step)
    race(
        sides,
        layer.op,
        suite="layers",
        subject=f"ExpanderLinear {name}",
        case=name_of(size),
        step=step,
        batch=batch,
        density=layer.density,
    )
