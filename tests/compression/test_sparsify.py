"""`compress`: the function of the masked model, only the kept weights, the original unchanged."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from bench.suites.pipeline import memory_share
from sparseq.compression import thresholds
from sparseq.compression.sparsify import compress
from sparseq.nn import SparseLinear, SparseQLinear
from sparseq.nn.convert import to_dense
from sparseq.nn.quaternion.linear import QLinear
from sparseq.nn.sparse.conv import SparseConv2d


def small_net(dtype=torch.float32, layer=nn.Linear):
    torch.manual_seed(0)
    layers = [nn.Flatten(), layer(16, 24), nn.ReLU(), layer(24, 8, bias=False), nn.Linear(8, 3)]
    return nn.Sequential(*layers).to(dtype)


def random_mask(model, density, whole=False):
    generator = torch.Generator().manual_seed(1)
    mask = {}
    for name, parameter in model.named_parameters():
        if name in ("1.weight", "3.weight"):
            keep = torch.rand(parameter.shape, generator=generator) < density
            mask[name] = keep[:1].expand_as(keep).clone() if whole else keep
    return mask


def masked(model, mask):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.masked_fill_(~mask.get(name, torch.ones_like(parameter).bool()), 0)
    return twin


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


def wide_net(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), layer(512, 512), nn.ReLU(), layer(512, 512))


@pytest.mark.parametrize("layer", [nn.Linear, QLinear])
def test_auto_keeps_dense_what_would_be_slower_and_logs_it(layer, caplog):
    model = wide_net(layer)
    mask = random_mask(model, 0.9)
    mask["3.weight"] = random_mask(model, 0.03)["3.weight"]
    with caplog.at_level(logging.INFO, "sparseq"):
        small = compress(model, mask)
    assert type(small[1]) is layer
    assert type(small[3]) is not layer
    assert f"1 ({layer.__name__}) stays dense" in caplog.text
    assert "and batch 64: sparse pays up to density" in caplog.text
    assert not small[1].weight[~mask["1.weight"]].any()
    assert type(compress(model, mask, "sparse")[1]) is not layer


def test_auto_depends_on_the_batch_and_the_step(monkeypatch):
    model, mask = wide_net(nn.Linear), random_mask(wide_net(nn.Linear), 0.2)
    seen = set()

    def lookup(kind, step, threads):
        seen.add((kind, step))
        table = thresholds.Thresholds((1,), (1, 64), ((0.1, 0.3),))
        return (thresholds.MapThresholds((1,), (table,)),)

    monkeypatch.setattr("sparseq.compression.break_even.thresholds", lookup)
    assert type(compress(model, mask, batch=1)[1]) is nn.Linear
    assert type(compress(model, mask, batch=8)[1]) is nn.Linear
    assert type(compress(model, mask, batch=64)[1]) is SparseLinear
    assert seen == {("Linear", "forward")}
    assert type(compress(model, mask, training=True)[1]) is SparseLinear
    assert ("Linear", "training") in seen
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        compress(model, mask, batch=0)


def pyramid():
    """The same convolution twice, on maps of 8x8 and of 4x4."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1)
    )


def by_map(kind, step, threads):
    """Break-even densities of 10 % on maps of 4x4 and 50 % on maps of 8x8."""
    tables = [thresholds.Thresholds((1,), (1,), ((limit,),)) for limit in (0.1, 0.5)]
    return (thresholds.MapThresholds((16, 64), tuple(tables)),)


def test_auto_depends_on_the_maps_of_convolutions(monkeypatch, caplog):
    monkeypatch.setattr("sparseq.compression.break_even.thresholds", by_map)
    model = pyramid()
    keep = torch.rand(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    mask = {"0.weight": keep, "2.weight": keep}
    with caplog.at_level(logging.INFO, "sparseq"):
        small = compress(model, mask, in_shape=(4, 8, 8))
    assert [type(small[at]) for at in (0, 2)] == [SparseConv2d, nn.Conv2d]
    assert "batch 64 on 16 positions: sparse pays up to density 0.1" in caplog.text
    without_shape = compress(model, mask)  # the worst map counts
    assert [type(without_shape[at]) for at in (0, 2)] == [nn.Conv2d, nn.Conv2d]
    large = compress(model, mask, in_shape=(4, 16, 16))
    assert [type(large[at]) for at in (0, 2)] == [SparseConv2d, SparseConv2d]
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(small(x), masked(model, mask)(x))


def test_the_recorded_shape_of_a_model_is_the_default(monkeypatch):
    monkeypatch.setattr("sparseq.compression.break_even.thresholds", by_map)
    model = pyramid()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight[:3] = 0
    model.recipe = {"name": "pyramid", "kwargs": {"in_shape": [4, 8, 8]}}
    assert [type(compress(model)[at]) for at in (0, 2)] == [SparseConv2d, nn.Conv2d]
    other = compress(model, in_shape=(4, 16, 16))
    assert [type(other[at]) for at in (0, 2)] == [SparseConv2d, SparseConv2d]


def test_only_auto_and_only_convolutions_make_the_model_run(monkeypatch):
    monkeypatch.setattr("sparseq.compression.sparsify.map_sizes", None)
    compress(pyramid(), policy="sparse", in_shape=(4, 8, 8))
    compress(small_net(), in_shape=(4, 4))


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
        ValueError, match="unknown compress policy 'best'; choose one of: auto, sparse"
    ):
        compress(small_net(), policy="best")


def test_auto_logs_what_was_not_measured(caplog, monkeypatch):
    monkeypatch.setattr("sparseq.compression.break_even.thresholds", lambda *_: ())
    with caplog.at_level(logging.INFO, "sparseq"):
        small = compress(nn.Sequential(nn.Conv2d(4, 8, 3)))
    assert type(small[0]) is nn.Conv2d
    assert "0 (Conv2d) stays dense, as none of its kind was measured sparse" in caplog.text
