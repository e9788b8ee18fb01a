"""The layers, whole public calls: module forward, and forward + backward with all gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines import (
    CatThenLinear,
    Form,
    agrees,
    onednn_inference,
    onednn_twin,
    torch_csr,
    with_best,
)
from bench.cases import (
    headline,
    name_of,
    normal,
    over_batches,
    over_densities,
    over_large_sizes,
    over_sizes,
    over_steps,
    random_mask,
    useful_flop,
)
from sparseq.graphs import Graph
from sparseq.graphs.regular import Regular
from sparseq.nn import (
    ExpanderLinear,
    ExpanderQLinear,
    QLinear,
    SparseLinear,
    SparseQLinear,
    to_dense,
)
from sparseq.ops.hamilton import real_weight

SEEDED = 1
LARGE = (2048, 2048)
Layer = QLinear | SparseLinear | SparseQLinear | ExpanderLinear | ExpanderQLinear


def real_matrix(layer: Layer) -> Tensor:
    """The (out, in) matrix a layer multiplies by, in plain torch; differentiable."""
    if isinstance(layer, SparseLinear | ExpanderLinear):
        return layer.dense_weight()
    return real_weight(layer.weight if isinstance(layer, QLinear) else layer.dense_weight())


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


def dense_sides(model: nn.Module, x: Tensor, dy: Tensor, step: str, name: str = "nn.Linear"):
    """Linear layers of the same real size: as called, the best form, and in bf16."""
    low, twin = copy.deepcopy(model).bfloat16(), onednn_twin(model)
    if step == "forward":
        others = onednn_inference(model, x)
    else:
        others = {"oneDNN": call_of(twin, x, dy, step)}
    called = Form("F.linear", call_of(model, x, dy, step))
    return {
        **with_best(f"{name} fp32", called, others),
        f"{name} bf16": call_of(low, x.bfloat16(), dy.bfloat16(), step),
    }


def data_of(size: tuple[int, int], batch: int) -> tuple[Tensor, Tensor]:
    """x (batch, in) and the gradient dy (batch, out)."""
    return normal(batch, size[0]), normal(batch, size[1], seed=2)


def quaternion_layer(size: tuple[int, int]) -> QLinear:
    """A seeded QLinear of that real size."""
    return QLinear(*size, generator=torch.Generator().manual_seed(SEEDED))


def race_layer(race, layer, others, subject, size, batch, step):
    """Our layer, after its gate, against its real dense twin and other sides.

    Args:
        others: call(x, dy) -> more sides.
    """
    x, dy = data_of(size, batch)
    gate(layer, x, dy)
    real = real_twin(layer)
    sides = {"sparseq": call_of(layer, x, dy, step), **dense_sides(real, x, dy, step)}
    sides.update(others(x, dy))
    kept = int(real.weight.count_nonzero())
    density = {} if isinstance(layer, QLinear) else {"density": round(kept / size[0] / size[1], 4)}
    race(
        sides,
        op_of(layer),
        useful_flop(kept, batch, step),
        suite="layers",
        subject=subject,
        case=name_of(size),
        step=step,
        batch=batch,
        **density,
    )


def real_twin(layer: nn.Module) -> nn.Module:
    """The nn.Linear that computes the same."""
    while not isinstance(layer, nn.Linear):
        layer = to_dense(layer)
    return layer


def op_of(layer: Layer) -> str:
    """The operator whose kernel serves the layer."""
    names = {QLinear: "hamilton", SparseLinear: "spmm", SparseQLinear: "sparse_hamilton"}
    return names.get(type(layer)) or layer.op


@headline(size=LARGE, batch=[64, 512])
@headline(size=LARGE, batch=1, step="forward")
@headline(size=(784, 300), batch=16, step="forward", thread_count=1)
@over_sizes
@over_batches
@over_steps
def test_qlinear(race, extras, size, batch, step):
    layer = quaternion_layer(size)

    def others(x, dy):
        if not extras:
            return {}
        twin = CatThenLinear(layer.weight, layer.bias)
        return {"cat then linear": call_of(twin, x, dy, step)}

    race_layer(race, layer, others, "QLinear", size, batch, step)


@headline(size=LARGE, batch=512, step="forward")
@headline(size=LARGE, batch=[64, 512], density=[0.1, 0.02])
@headline(size=(784, 300), batch=[1, 16], density=0.05, step="forward", thread_count=1)
@over_sizes
@over_batches
@over_densities
@over_steps
def test_sparse_linear(race, extras, size, batch, density, step):
    k, m = size
    dense = nn.Linear(k, m)
    nn.init.normal_(dense.weight, generator=torch.Generator().manual_seed(SEEDED))
    nn.init.zeros_(dense.bias)
    layer = SparseLinear.from_dense(dense, random_mask(m, k, density))

    def others(x, dy):
        if not extras or step == "training":
            return {}
        return {"torch CSR": torch_csr(x, real_matrix(layer), layer.bias)}

    race_layer(race, layer, others, "SparseLinear", size, batch, step)


@headline(size=LARGE, batch=512, density=0.1)
@over_sizes
@over_batches
@over_densities
@over_steps
@pytest.mark.parametrize("granularity", ["component", "quaternion"])
def test_sparse_qlinear(race, extras, size, batch, density, step, granularity):
    k, m = size
    whole = granularity == "quaternion"
    mask = random_mask(m // 4 if whole else m, k // 4, density).view(-1, m // 4, k // 4)
    layer = SparseQLinear.from_dense(
        quaternion_layer(size), mask.expand(4, -1, -1), granularity=granularity
    )

    def others(x, dy):
        return {"QLinear": call_of(layer.to_dense(), x, dy, step)} if extras else {}

    subject = f"SparseQLinear by {granularity}"
    race_layer(race, layer, others, subject, size, batch, step)


@headline(size=LARGE, batch=512, degree=64, thread_count=1)
@over_large_sizes
@over_batches
@over_steps
@pytest.mark.parametrize("degree", [16, 64], ids="degree-{}".format)
def test_expander_linear(race, extras, size, batch, step, degree):
    layer = expander(size, degree, Regular(tries=1))
    race_expander(race, extras, layer, size, batch, step, f"regular degree {degree}")


@headline(size=LARGE, batch=512, part=8, block=64)
@over_large_sizes
@over_batches
@over_steps
@pytest.mark.parametrize("part", [8, 16], ids="one-in-{}".format)
@pytest.mark.parametrize("block", [16, 64], ids="block-{}".format)
def test_block_linear(race, extras, size, batch, step, block, part):
    layer = expander(size, size[0] // part, f"block({block})")
    race_expander(race, extras, layer, size, batch, step, f"block({block})")


def expander(size: tuple[int, int], degree: int, graph: str | Graph) -> ExpanderLinear:
    """A seeded ExpanderLinear."""
    return ExpanderLinear(
        size[0], size[1], degree, graph, generator=torch.Generator().manual_seed(SEEDED)
    )


def race_expander(race, extras, layer, size, batch, step, name):
    """Against dense layers, and our CSR layer with equally many weights."""

    def others(x, dy):
        if not extras:
            return {}
        return {"SparseLinear": call_of(SparseLinear.from_dense(layer.to_dense()), x, dy, step)}

    race_layer(race, layer, others, f"ExpanderLinear {name}", size, batch, step)


@headline(size=LARGE, batch=512, thread_count=1)
@over_large_sizes
@over_batches
@over_steps
def test_expander_qlinear(race, size, batch, step):
    layer = ExpanderQLinear(*size, 16, generator=torch.Generator().manual_seed(SEEDED))
    subject = "ExpanderQLinear regular degree 16"
    race_layer(race, layer, lambda x, dy: {}, subject, size, batch, step)
