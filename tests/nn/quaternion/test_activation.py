"""QModReLU and QuaternionToReal against their formulas, and at 0."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from sparseq.nn import QModReLU, QuaternionToReal
from tests.nn.full_graph import assert_compiles_in_one_graph
from tests.ops.cases import normal

SHAPES = [(5, 8), (1, 4, 1, 1), (3, 12, 5, 7), (2, 8, 3), (0, 8, 3)]
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def modrelu(features, seed=0):
    layer = QModReLU(features, dtype=torch.float64)
    layer.bias.data = 2 * normal(features // 4, seed=seed)
    return layer


@over_shapes
def test_modrelu_is_its_formula(shape):
    layer, x = modrelu(shape[1]), normal(*shape)
    norm = x.unflatten(1, (4, -1)).norm(dim=1, keepdim=True)
    offset = layer.bias.view(-1, *[1] * (len(shape) - 2))
    want = torch.relu(norm + offset) * x.unflatten(1, (4, -1)) / norm
    torch.testing.assert_close(layer(x), want.flatten(1, 2))


def test_modrelu_starts_as_the_identity_or_with_a_dead_zone():
    x = torch.randn(3, 8, 2, 2)
    torch.testing.assert_close(QModReLU(8)(x), x)
    y = QModReLU(8, offset=-0.5)(x).unflatten(1, (4, -1)).norm(dim=1)
    torch.testing.assert_close(y, (x.unflatten(1, (4, -1)).norm(dim=1) - 0.5).relu())


@pytest.mark.parametrize(("offset", "slope"), [(-0.5, 0.0), (0.0, 1.0), (0.5, 1.0)])
def test_modrelu_at_zero(offset, slope):
    layer = QModReLU(4, offset)
    x = torch.zeros(2, 4, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 4))
    assert torch.equal(x.grad, torch.full((2, 4), slope))
    assert torch.equal(layer.bias.grad, torch.zeros(1))


def test_modrelu_gradients_to_second_order():
    layer, x = modrelu(8), normal(3, 8, 2).requires_grad_()

    def run(x, bias):
        return torch.func.functional_call(layer, {"bias": bias}, (x,))

    assert torch.autograd.gradcheck(run, (x, layer.bias))
    assert torch.autograd.gradgradcheck(run, (x, layer.bias))


@over_shapes
def test_norm_is_its_formula(shape):
    x = normal(*shape)
    want = x.unflatten(1, (4, -1)).square().sum(1).sqrt()
    torch.testing.assert_close(QuaternionToReal()(x), want)


def test_norm_gradients():
    x = normal(3, 8, 2).requires_grad_()
    assert torch.autograd.gradcheck(QuaternionToReal(), (x,))
    assert torch.autograd.gradgradcheck(QuaternionToReal(), (x,))
    zero = torch.zeros(2, 4, requires_grad=True)
    QuaternionToReal()(zero).sum().backward()
    assert torch.equal(zero.grad, torch.zeros(2, 4))


@pytest.mark.parametrize("layer", [QModReLU(8, -0.3), QuaternionToReal()], ids=str)
def test_copies_compilation_export_and_dtypes(layer):
    x = torch.randn(3, 8, 5)
    want = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), want)
    assert_compiles_in_one_graph(layer, x)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), want)
    for dtype in (torch.bfloat16, torch.float16):
        low = copy.deepcopy(layer).to(dtype)(x.to(dtype))
        assert low.dtype == dtype
        torch.testing.assert_close(low.float(), want, rtol=5e-2, atol=5e-2)


def test_errors():
    with pytest.raises(ValueError, match="QModReLU: num_features must be divisible by 4"):
        QModReLU(6)
    with pytest.raises(ValueError, match="QModReLU: x must have 8 features, got"):
        QModReLU(8)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"QuaternionToReal: x must be features \(N, 4 C"):
        QuaternionToReal()(torch.zeros(2, 6))
