"""Policy "auto" of `compress`: what is converted, what stays dense, and what is logged."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from sparseq.compression import thresholds
from sparseq.compression.sparsify import compress
from sparseq.nn import SparseLinear
from sparseq.nn.quaternion.linear import QLinear
from sparseq.nn.sparse.conv import SparseConv2d
from tests.compression.networks import masked, random_mask, small_net, wide_net


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


def test_auto_logs_what_was_not_measured(caplog, monkeypatch):
    monkeypatch.setattr("sparseq.compression.break_even.thresholds", lambda *_: ())
    with caplog.at_level(logging.INFO, "sparseq"):
        small = compress(nn.Sequential(nn.Conv2d(4, 8, 3)))
    assert type(small[0]) is nn.Conv2d
    assert "0 (Conv2d) stays dense, as none of its kind was measured sparse" in caplog.text
