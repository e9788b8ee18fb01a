"""QBatchNorm: whitening by its definition, modes, running statistics, agreement with torch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparseq.nn import QBatchNorm1d, QBatchNorm2d, QBatchNorm3d
from tests.nn.full_graph import assert_compiles_in_one_graph
from tests.ops.cases import normal

SHAPES = {QBatchNorm1d: (6, 12), QBatchNorm2d: (5, 12, 3, 7), QBatchNorm3d: (2, 12, 3, 1, 5)}
over_kinds = pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
over_modes = pytest.mark.parametrize("mode", ["whiten", "split"])


def mixed(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Features whose components are correlated and off center."""
    x = normal(*shape, seed=seed)
    parts = x.unflatten(1, (4, -1))
    mixing = normal(4, 4, seed=seed + 1) + torch.eye(4, dtype=torch.float64)
    parts = torch.einsum("ab,nb...->na...", mixing, parts) + 3
    return parts.flatten(1, 2).to(dtype)


def random_layer(kind=QBatchNorm2d, features=12, dtype=torch.float64, **options):
    """A layer whose gamma and beta are random."""
    layer = kind(features, dtype=dtype, **options)
    for seed, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed, dtype=dtype)
    return layer


def quaternions(x: torch.Tensor) -> torch.Tensor:
    """(N, 4 C, ...) as (C, 4, values)."""
    return (
        x.unflatten(1, (4, -1)).flatten(3).movedim(0, -1).flatten(2).transpose(0, 1)
        if (x.dim() > 2)
        else x.unflatten(1, (4, -1)).permute(2, 1, 0)
    )


def by_definition(x, layer, mean, cov):
    """gamma L^-1 (x - mean) + beta, channel by channel."""
    parts = quaternions(x)
    out = []
    for c, channel in enumerate(parts):
        lower = torch.linalg.cholesky(cov[:, :, c] + layer.eps * torch.eye(4, dtype=x.dtype))
        white = torch.linalg.solve_triangular(lower, channel - mean[:, c, None], upper=False)
        out.append(layer.weight[:, :, c] @ white + layer.bias.view(4, -1)[:, c, None])
    return torch.stack(out)


def covariances(x: torch.Tensor, correction: int = 0) -> torch.Tensor:
    """(4, 4, C) of the components of every quaternion channel."""
    return torch.stack([torch.cov(c, correction=correction) for c in quaternions(x)], -1)


@over_kinds
def test_training_is_the_definition(kind):
    layer, x = random_layer(kind), mixed(*SHAPES[kind])
    mean = quaternions(x).mean(2).t()
    want = by_definition(x, layer, mean, covariances(x))
    torch.testing.assert_close(quaternions(layer(x)), want)


@over_kinds
def test_evaluation_uses_the_running_statistics(kind):
    layer, x = random_layer(kind).eval(), mixed(*SHAPES[kind])
    layer.running_mean.copy_(normal(12, seed=5))
    layer.running_cov.copy_(covariances(mixed(9, 12, 4, seed=3)))
    want = by_definition(x, layer, layer.running_mean.view(4, -1), layer.running_cov)
    before = copy.deepcopy(layer.state_dict())
    torch.testing.assert_close(quaternions(layer(x)), want)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_the_modulus_starts_at_variance_one():
    x = mixed(64, 8, 5, 5)
    y = quaternions(QBatchNorm2d(8, dtype=torch.float64)(x))
    assert y.mean(2).abs().max() < 1e-12
    torch.testing.assert_close(y.square().sum(1).mean(1), torch.ones(2).double(), rtol=1e-4, atol=0)
    cov = covariances(y.permute(2, 1, 0).flatten(1))
    torch.testing.assert_close(
        cov, (torch.eye(4) / 4)[:, :, None].expand_as(cov).double(), rtol=1e-3, atol=1e-3
    )


def test_without_affine_the_components_are_white():
    layer = QBatchNorm2d(8, affine=False, dtype=torch.float64)
    assert list(layer.parameters()) == []
    cov = covariances(layer(mixed(16, 8, 5, 5)))
    want = torch.eye(4).double()[:, :, None].expand_as(cov)
    torch.testing.assert_close(cov, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_unbiased(momentum):
    layer = QBatchNorm2d(8, momentum=momentum, dtype=torch.float64)
    batches = [mixed(4, 8, 3, 3, seed=seed) for seed in (0, 4, 9)]
    mean, cov = torch.zeros(4, 2).double(), torch.eye(4).double()[:, :, None].expand(4, 4, 2)
    for step, x in enumerate(batches, 1):
        layer(x)
        factor = 1 / step if momentum is None else momentum
        mean = mean + factor * (quaternions(x).mean(2).t() - mean)
        cov = cov + factor * (covariances(x, 1) - cov)
    torch.testing.assert_close(layer.running_mean, mean.flatten())
    torch.testing.assert_close(layer.running_cov, cov)
    assert layer.num_batches_tracked == 3


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_split_is_batch_normalization_of_torch(options):
    ours = QBatchNorm2d(12, mode="split", dtype=torch.float64, **options)
    theirs = nn.BatchNorm2d(12, dtype=torch.float64, **options)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    for seed in (0, 1, None):
        x = mixed(5, 12, 3, 7, seed=seed or 2)
        for layer in (ours, theirs):
            layer.train(seed is not None)
        torch.testing.assert_close(ours(x), theirs(x))
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], value)


@over_modes
def test_one_value_per_channel(mode):
    layer = QBatchNorm2d(8, mode=mode)
    nn.init.normal_(layer.bias)
    second_moment = layer._second_moment().clone()
    x = torch.randn(1, 8, 1, 1, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, layer.bias.view(1, 8, 1, 1))
    y.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(layer.weight.grad).all()
    torch.testing.assert_close(layer.running_mean, 0.1 * x.detach().flatten())
    assert torch.equal(layer._second_moment(), second_moment)
    assert layer.num_batches_tracked == 1
    assert torch.isfinite(layer.eval()(x)).all()


@over_modes
@pytest.mark.parametrize("shape", [(0, 8, 3, 3), (2, 8, 0, 3)])
def test_an_empty_batch_updates_nothing(mode, shape):
    layer = QBatchNorm2d(8, mode=mode)
    before = {k: v.clone() for k, v in layer.state_dict().items() if "running" in k}
    for training in (True, False):
        x = torch.zeros(shape, requires_grad=True)
        y = layer.train(training)(x)
        assert y.shape == shape
        y.sum().backward()
        assert x.grad.shape == shape
    assert all(torch.equal(layer.state_dict()[k], v) for k, v in before.items())


@over_modes
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_to_second_order(mode, affine, training):
    layer = QBatchNorm2d(
        8, affine=affine, track_running_stats=not training, mode=mode, dtype=torch.float64
    ).train(training)
    names = [name for name, _ in layer.named_parameters()]
    x = mixed(3, 8, 2, 2).requires_grad_()
    parameters = [normal(*p.shape, seed=2).requires_grad_() for p in layer.parameters()]

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters))
    assert torch.autograd.gradgradcheck(run, (x, *parameters))


@over_modes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_features_are_normalized_in_float32(mode, dtype):
    x = mixed(8, 12, 5, 5)
    exact = random_layer(mode=mode)
    layer = copy.deepcopy(exact).to(dtype)
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    want = copy.deepcopy(layer).double()(x.to(dtype).double())
    torch.testing.assert_close(y.double(), want, rtol=2e-2, atol=2e-2)
    mixed_types = copy.deepcopy(exact).float()
    assert mixed_types(x.to(dtype)).dtype == dtype
    assert mixed_types.running_mean.dtype == torch.float32


@over_modes
def test_autocast_keeps_the_dtype(mode):
    layer = random_layer(mode=mode, dtype=torch.float32)
    x = mixed(8, 12, 5, 5, dtype=torch.float32)
    want = copy.deepcopy(layer)(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = copy.deepcopy(layer)(x)
        low = layer(x.bfloat16())
    assert y.dtype == torch.float32
    assert torch.equal(y, want)
    assert low.dtype == torch.bfloat16


def test_a_large_mean_costs_no_precision():
    x = mixed(16, 8, 6, 6, dtype=torch.float32) + 4000
    layer = random_layer(features=8, dtype=torch.float32)
    want = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(layer(x).double(), want, rtol=1e-2, atol=1e-2)


def test_perfectly_correlated_components_stay_finite():
    x = torch.randn(16, 1, 4, 4).repeat(1, 8, 1, 1).mul(100).requires_grad_()
    y = QBatchNorm2d(8)(x)
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


@over_kinds
@over_modes
def test_copies_compilation_and_export(kind, mode):
    layer, x = random_layer(kind, mode=mode, dtype=torch.float32), mixed(*SHAPES[kind]).float()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), copy.deepcopy(layer)(x))
    fresh = kind(12, mode=mode)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), copy.deepcopy(layer)(x))
    assert_compiles_in_one_graph(layer, x)
    program = torch.export.export(layer.eval(), (x,))
    torch.testing.assert_close(program.module()(x), layer(x))


def test_any_memory_format():
    layer, x = random_layer().eval(), mixed(5, 12, 3, 7)
    want = layer(x)
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(last), want)
    torch.testing.assert_close(layer(x.mT.contiguous().mT), want)


def test_meta_layers_are_filled_by_loading():
    layer = random_layer(dtype=torch.float32)
    empty = QBatchNorm2d(12, device="meta")
    assert empty(torch.empty(2, 12, 3, 3, device="meta")).shape == (2, 12, 3, 3)
    empty.load_state_dict(layer.state_dict(), assign=True)
    x = mixed(5, 12, 3, 3, dtype=torch.float32)
    torch.testing.assert_close(empty(x), layer(x))


def test_errors():
    with pytest.raises(ValueError, match="QBatchNorm2d: num_features must be divisible by 4"):
        QBatchNorm2d(6)
    with pytest.raises(ValueError, match=r"unknown QBatchNorm1d mode 'x'.*whiten, split"):
        QBatchNorm1d(8, mode="x")
    with pytest.raises(ValueError, match=r"QBatchNorm2d: x must have 4 dimensions and 8 features"):
        QBatchNorm2d(8)(torch.zeros(2, 8, 3))


def test_a_network_trains():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), QBatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 2)
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 3, 6, 6, generator=generator)
    labels = (x.mean((1, 2, 3)) > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
