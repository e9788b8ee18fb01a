"""`weight` of sparse layers: what code outside sparseq reads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparseq import ExpanderLinear, ExpanderQLinear, QLinear, SparseLinear, compress, swap, to_dense
from sparseq.nn import QConv2d, SparseConv2d, SparseQConv2d, SparseQLinear

LAYERS = {
    "SparseLinear": lambda: pruned(SparseLinear, nn.Linear(8, 12)),
    "SparseConv2d": lambda: pruned(SparseConv2d, nn.Conv2d(4, 6, 3, groups=2)),
    "SparseQLinear": lambda: pruned(SparseQLinear, QLinear(8, 12)),
    "SparseQConv2d": lambda: pruned(SparseQConv2d, QConv2d(8, 4, 3)),
    "ExpanderLinear": lambda: ExpanderLinear(12, 8, 3),
    "ExpanderLinear of blocks": lambda: ExpanderLinear(32, 32, 16, "block(16)"),
    "ExpanderQLinear": lambda: ExpanderQLinear(16, 16, 2),
}


def pruned(kind, layer):
    torch.manual_seed(0)
    return kind.from_dense(layer, torch.rand(layer.weight.shape) < 0.4)


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]()


def test_weight_is_that_of_the_dense_twin(layer):
    twin = to_dense(layer)
    assert torch.equal(layer.weight, twin.weight)
    assert (layer.weight.shape, layer.weight.dtype) == (twin.weight.shape, twin.weight.dtype)
    assert type(layer.weight * 2) is torch.Tensor


def test_gradients_of_a_reader_reach_the_kept_entries(layer):
    layer.weight.square().sum().backward()
    torch.testing.assert_close(layer.values.grad, 2 * layer.values)


def test_weight_is_no_parameter_and_not_in_the_state(layer):
    assert "weight" not in dict(layer.named_parameters())
    assert "weight" not in layer.state_dict()


WRITES = {
    "normal_": lambda layer: layer.weight.normal_(),
    "nn.init": lambda layer: nn.init.kaiming_uniform_(layer.weight),
    "data": lambda layer: layer.weight.data.zero_(),
    "detach": lambda layer: layer.weight.detach().mul_(2),
    "item": lambda layer: layer.weight.__setitem__(0, 1.0),
    "augmented": lambda layer: layer.weight.__imul__(2),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_that_would_be_lost_are_refused(layer, name):
    with pytest.raises(ValueError, match="weight must not be written, as it is computed"):
        WRITES[name](layer)


def encoder(norm_first=False, activation="relu"):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        32, 4, 64, batch_first=True, norm_first=norm_first, activation=activation
    )
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.no_grad():
        for linear in [m for m in model.modules() if type(m) is nn.Linear]:
            linear.weight[linear.weight.abs() < 0.1] = 0
    return model


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("no_grad", [False, True])
def test_torchs_encoder_calls_its_sparse_layers(norm_first, activation, no_grad):
    model, x = encoder(norm_first, activation), torch.randn(2, 5, 32)
    small = compress(model, policy="sparse")
    assert isinstance(small.layers[0].linear1, SparseLinear)
    calls = []
    with torch.set_grad_enabled(not no_grad):
        expected = model(x)
        torch.testing.assert_close(small(x), expected)
        for layer in small.layers:
            forward = layer.linear2.forward
            layer.linear2.forward = lambda x, f=forward: calls.append(1) or f(x)
        small(x)
    assert len(calls) == 2
    assert to_dense(compress(model, policy="sparse")).layers[0].activation_relu_or_gelu == (
        2 if activation == "gelu" else 1
    )


def test_an_encoder_of_quaternion_layers_runs():
    model, x = encoder(), torch.randn(2, 5, 32)
    quaternion = swap(model, {nn.Linear: QLinear})
    assert isinstance(quaternion.layers[0].linear1, QLinear)
    with torch.no_grad():
        torch.testing.assert_close(to_dense(quaternion)(x), quaternion(x))


def test_a_layer_set_by_hand_is_read_rightly():
    model, x = encoder(), torch.randn(2, 5, 32)
    by_hand = copy.deepcopy(model)
    by_hand.layers[1].linear1 = SparseLinear.from_dense(by_hand.layers[1].linear1)
    with torch.no_grad():
        torch.testing.assert_close(by_hand(x), model(x))
