from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from sparseq.nn import QLinear, SparseQLinear
from sparseq.nn.quaternion.init import INITS
from sparseq.ops.hamilton import ALGORITHMS, real_weight


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_definition(layer: QLinear, x: torch.Tensor) -> torch.Tensor:
    """The Hamilton product written out, in float64."""
    r, i, j, k = layer.weight.double()
    a, b, c, d = x.double().chunk(4, dim=-1)
    parts = [
        a @ r.t() - b @ i.t() - c @ j.t() - d @ k.t(),
        a @ i.t() + b @ r.t() - c @ k.t() + d @ j.t(),
        a @ j.t() + b @ k.t() + c @ r.t() - d @ i.t(),
        a @ k.t() - b @ j.t() + c @ i.t() + d @ r.t(),
    ]
    return torch.cat(parts, dim=-1) + layer.bias.double()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_forward_is_the_hamilton_product(algorithm):
    layer = QLinear(12, 8, algorithm=algorithm, generator=seeded())
    nn.init.normal_(layer.bias, generator=seeded(1))
    x = torch.randn(5, 12, generator=seeded(2))
    torch.testing.assert_close(layer(x).double(), by_definition(layer, x), rtol=1e-5, atol=1e-5)


def test_parameters_are_a_quarter_and_the_bias_starts_at_zero():
    layer = QLinear(12, 8)
    assert layer.weight.shape == (4, 2, 3)
    assert layer.bias.shape == (8,)
    assert torch.equal(layer.bias, torch.zeros(8))
    assert QLinear(12, 8, bias=False).bias is None
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


@pytest.mark.parametrize(("init", "gain"), [("he", 2), ("glorot", 1), ("htorch", 0.5)])
def test_output_variance_is_4_s2_fan_in(init, gain):
    layer = QLinear(1024, 1024, init=init, generator=seeded())
    y = layer(torch.randn(512, 1024, generator=seeded(1))).detach()
    per_component = y.unflatten(1, (4, -1)).transpose(0, 1).flatten(1).var(dim=1)
    torch.testing.assert_close(per_component, torch.full((4,), float(gain)), rtol=0.05, atol=0)


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12), (0, 12), (2, 0, 12)])
def test_any_leading_dimensions(shape):
    layer = QLinear(12, 8, generator=seeded())
    x = torch.randn(shape, generator=seeded(1), requires_grad=True)
    y = layer(x)
    assert y.shape == (*shape[:-1], 8)
    torch.testing.assert_close(y, layer.to_dense()(x))
    y.sum().backward()
    assert x.grad.shape == shape
    assert layer.weight.grad.shape == layer.weight.shape


def test_non_contiguous_input(x):
    layer = QLinear(12, 8)
    wide = x.repeat_interleave(2, dim=1)[:, ::2]
    assert not wide.is_contiguous()
    torch.testing.assert_close(layer(wide), layer(x))
    torch.testing.assert_close(layer(x.t().contiguous().t()), layer(x))


def test_gradients_are_those_of_the_real_layer(x):
    layer = QLinear(12, 8, dtype=torch.float64)
    x = x.double().requires_grad_()
    y = layer(x).square().sum()
    ours = torch.autograd.grad(y, [x, layer.weight, layer.bias])
    real = nn.functional.linear(x, real_weight(layer.weight), layer.bias).square().sum()
    for a, b in zip(ours, torch.autograd.grad(real, [x, layer.weight, layer.bias]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["in_features", "out_features"])
@pytest.mark.parametrize("size", [10, 1, -4])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_sizes_not_divisible_by_four(name, size, kind):
    sizes = {"in_features": 8, "out_features": 8, name: size}
    layer = QLinear if kind == "dense" else lambda **s: SparseQLinear(**s, pattern=None)
    with pytest.raises(ValueError, match=rf"{name} must be divisible by 4.*got {size}"):
        layer(**sizes)


def test_unknown_names_list_the_available_ones():
    with pytest.raises(ValueError, match=r"QLinear init 'xavier'.*he, glorot, htorch"):
        QLinear(4, 4, init="xavier")
    with pytest.raises(ValueError, match=r"QLinear algorithm '9'.*auto, 8, 16"):
        QLinear(4, 4, algorithm="9")


def test_wrong_input_width():
    with pytest.raises(ValueError, match=r"hamilton: x must have 12 features.*got \(3, 8\)"):
        QLinear(12, 8)(torch.zeros(3, 8))


def test_seeds():
    weights = [QLinear(8, 8, generator=seeded(seed)).weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    layer = QLinear(8, 8, generator=seeded(2))
    nn.init.ones_(layer.bias)
    layer.reset_parameters(seeded(1))
    assert torch.equal(layer.weight, weights[0])
    assert torch.equal(layer.bias, torch.zeros(8))


@pytest.mark.parametrize("init", INITS)
def test_reset_uses_the_init_the_layer_was_built_with(init):
    layer = QLinear(256, 256, init=init)
    before = layer.weight.std().item()
    layer.reset_parameters(seeded())
    assert layer.weight.std().item() == pytest.approx(before, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_to_dense_computes_the_same(dtype, bias, x):
    layer = QLinear(12, 8, bias, dtype=dtype).eval()
    layer.weight.requires_grad_(False)
    dense = layer.to_dense()
    assert type(dense) is nn.Linear
    assert torch.equal(dense.weight, real_weight(layer.weight))
    assert (dense.bias is not None) == bias
    assert (dense.weight.requires_grad, dense.training) == (False, False)
    torch.testing.assert_close(dense(x.to(dtype)), layer(x.to(dtype)))
    dense.weight.data.zero_()
    assert layer.weight.abs().sum() > 0


def test_to_dense_draws_no_random_numbers():
    layer = QLinear(8, 8)
    state = torch.get_rng_state()
    layer.to_dense()
    assert torch.equal(torch.get_rng_state(), state)


def test_copies(x):
    layer = QLinear(12, 8, algorithm="16", init="glorot")
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        assert (twin.algorithm, twin.init) == ("16", "glorot")
        assert twin.weight.data_ptr() != layer.weight.data_ptr()


def test_state_dict_round_trip(x):
    a, b = QLinear(12, 8), QLinear(12, 8)
    assert list(a.state_dict()) == ["weight", "bias"]
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x), b(x))


def test_dtype_and_meta():
    assert QLinear(8, 4, dtype=torch.float64).weight.dtype == torch.float64
    assert QLinear(8, 4).to(torch.bfloat16).bias.dtype == torch.bfloat16
    layer = QLinear(8, 4, device="meta")
    assert layer(torch.empty(3, 8, device="meta")).shape == (3, 4)
    layer.to_empty(device="cpu").load_state_dict(QLinear(8, 4).state_dict())
    assert layer(torch.zeros(3, 8)).shape == (3, 4)


def test_repr_shows_non_default_arguments():
    assert repr(QLinear(8, 4)) == "QLinear(in_features=8, out_features=4, bias=True)"
    text = repr(QLinear(8, 4, False, init="glorot", algorithm="8"))
    assert text == ("QLinear(in_features=8, out_features=4, bias=False, init=glorot, algorithm=8)")
