"""`compress`: the function of the masked model, only the kept weights, the original unchanged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bench.suites.pipeline import memory_share
from sparseq.compression.sparsify import compress
from sparseq.nn import SparseLinear, SparseQLinear
from sparseq.nn.convert import to_dense
from sparseq.nn.quaternion.linear import QLinear
from tests.compression.networks import masked, random_mask, small_net

X = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("layer", [nn.Linear, QLinear])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("policy", ["auto", "sparse"])
def test_the_function_is_that_of_the_masked_model(layer, density, policy):
    model = small_net(torch.float64, layer)
    mask = random_mask(model, density)
    small = compress(model, mask, policy)
    torch.testing.assert_close(small(X), masked(model, mask)(X))
    expected = masked(model, mask).state_dict()
    for name, tensor in dense_again(small).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def dense_again(model):
    """Undo only the sparse layers; `to_dense` would also make quaternion layers real."""
    for name, module in model.named_children():
        if isinstance(module, (SparseLinear, SparseQLinear)):
            setattr(model, name, module.to_dense())
    return model


def test_without_a_mask_exact_zeros_are_dropped():
    model = masked(small_net(), random_mask(small_net(), 0.2))
    small = compress(model, policy="sparse")
    assert all(type(small[i]) is SparseLinear for i in (1, 3, 4))
    assert small[1].values.numel() == int(model[1].weight.count_nonzero())
    for name, tensor in to_dense(small).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_quaternions_stay_whole_where_the_mask_keeps_them_so():
    model = small_net(layer=QLinear)
    for whole, granularity in ((True, "quaternion"), (False, "component")):
        small = compress(model, random_mask(model, 0.2, whole), "sparse")
        assert isinstance(small[1], SparseQLinear)
        assert small[1].granularity == granularity


def test_a_sparse_layer_trains_in_a_fifth_of_the_bytes():
    """Parameters, gradients, Adam's state and buffers of 2048 x 2048 at 95 % sparsity."""
    assert memory_share(2048, 0.05) <= 0.2


def test_layers_without_a_mask_stay_dense():
    model = small_net()
    small = compress(model, random_mask(model, 0.1), "sparse")
    assert type(small[4]) is nn.Linear
    assert type(compress(model, {}, "sparse")[1]) is nn.Linear
    assert type(compress(model, None, "sparse")[4]) is SparseLinear


def test_other_parameters_are_masked_too():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4))
    conv, bias = torch.rand(3, 2, 3, 3) < 0.5, torch.tensor([True, False, True, False])
    small = compress(model, {"0.weight": conv, "2.bias": bias})
    assert torch.equal(small[0].weight != 0, conv)
    assert torch.equal(small[2].bias != 0, bias)


def test_the_original_is_not_modified():
    model = small_net().train()
    before = copy.deepcopy(model.state_dict())
    mask = random_mask(model, 0.2)
    small = compress(model, mask, "sparse")
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(7)
    assert [type(module) for module in model] == [type(module) for module in small_net()]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("density", [0.2, 0.9])
@pytest.mark.parametrize("layer", [nn.Linear, QLinear])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_dropped_values_never_leak(density, layer, bad):
    model = small_net(torch.float64, layer)
    mask = random_mask(model, density)
    with torch.no_grad():
        for name, keep in mask.items():
            model.get_parameter(name)[~keep] = bad
    small = compress(model, mask, "auto" if density > 0.5 else "sparse")
    torch.testing.assert_close(small(X), masked(model, mask)(X))
    small(X).sum().backward()
    grads = [parameter.grad for parameter in small.parameters()]
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_mode_and_gradient_flags_are_preserved():
    model = small_net().eval()
    model[1].train()
    model[1].weight.requires_grad_(False)
    small = compress(model, random_mask(model, 0.2), "sparse")
    assert small[1].training
    assert not small[3].training
    assert not small[1].values.requires_grad
    assert small[1].bias.requires_grad
    assert small[3].values.requires_grad


def test_shared_layers_and_shared_weights():
    layer, tied = nn.Linear(8, 8), nn.Linear(8, 8)
    tied.weight = layer.weight
    model = nn.Sequential(layer, nn.ReLU(), layer, tied)
    mask = {"0.weight": torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.2}
    small = compress(model, mask, "sparse")
    assert small[0] is small[2]
    x = torch.randn(3, 8)
    torch.testing.assert_close(small(x), masked(model, mask)(x))
    assert torch.equal(small[3].dense_weight(), small[0].dense_weight())


def test_a_bare_layer_and_a_compressed_model():
    layer = nn.Linear(6, 4)
    small = compress(layer, {"weight": torch.eye(4, 6).bool()}, "sparse")
    assert isinstance(small, SparseLinear)
    assert torch.equal(compress(small)(torch.ones(1, 6)), small(torch.ones(1, 6)))


def test_subclasses_are_not_converted():
    class Special(nn.Linear):
        pass

    assert type(compress(nn.Sequential(Special(4, 4)), policy="sparse")[0]) is Special


def test_a_half_precision_model_keeps_its_dtype():
    model = small_net(torch.bfloat16)
    assert {p.dtype for p in compress(model, random_mask(model, 0.2), "sparse").parameters()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            {"nope": torch.ones(1).bool()},
            r"compress: mask must name parameters .* got 'nope'",
        ),
        ({"1.weight": torch.ones(24, 16)}, r"must be a bool tensor of shape .* got torch.float32"),
        ({"1.weight": [True]}, "must be a bool tensor"),
        ({"1.weight": torch.ones(16, 24).bool()}, r"of shape \(24, 16\), got .*\(16, 24\)"),
        ({"1.weight": torch.ones(1, 16).bool()}, "must be a bool tensor of shape"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        compress(small_net(), mask)


def test_an_unknown_policy_is_refused():
    with pytest.raises(
        ValueError, match="unknown compress policy 'best'; choose one of: auto, measured, sparse"
    ):
        compress(small_net(), policy="best")
