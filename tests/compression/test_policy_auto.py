"""Policy "auto" of `compress`: what is converted, what stays dense, and what is logged."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from torch import nn

from sparseq.compression import thresholds
from sparseq.compression.sparsify import compress
from sparseq.nn import SparseLinear
from sparseq.nn.quaternion.linear import QLinear
from sparseq.nn.sparse.conv import SparseConv2d
from sparseq.ops.build.cpu import CpuClass, cpu_class
from sparseq.ops.choice import measured
from tests.compression.clocks import half_pruned
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
    assert re.search(rf"1 \({layer.__name__}, [0-9.]+ % kept\) stays dense: density ", caplog.text)
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


def test_the_model_runs_only_for_auto_and_only_on_a_known_shape(monkeypatch):
    monkeypatch.setattr("sparseq.compression.table_rule.map_sizes", None)
    compress(pyramid(), policy="sparse", in_shape=(4, 8, 8))
    compress(pyramid())
    compress(small_net(), mask={}, in_shape=(4, 4))


def test_rows_of_linear_layers_are_tokens_where_the_shape_is_known(monkeypatch):
    table = thresholds.Thresholds((1,), (1, 64), ((0.1, 0.6),))
    maps = (thresholds.MapThresholds((1,), (table,)),)
    monkeypatch.setattr("sparseq.compression.break_even.thresholds", lambda *_: maps)
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
    mask = {"1.weight": torch.arange(64).view(8, 8) % 2 == 0}
    assert type(compress(model, mask, batch=1, in_shape=(50, 8))[1]) is nn.Linear
    assert type(compress(model, mask, batch=2, in_shape=(50, 8))[1]) is SparseLinear
    assert type(compress(model, mask, batch=2, in_shape=(8,))[1]) is nn.Linear


def reasons(model, caplog, **arguments):
    """What is logged about each layer of a model of which half is pruned, or as its mask says."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "sparseq"):
        compress(half_pruned(model), **arguments)
    lines = [record.getMessage().partition(" stays dense: ")[2] for record in caplog.records]
    return list(filter(None, lines))


MEASURE = "were not measured sparse; compress(example=...) measures"


def test_what_lies_outside_of_the_tables_was_not_measured(caplog, monkeypatch):
    table = thresholds.Thresholds((100, 1000), (4, 64), ((0.2, 0.2), (0.0, 0.2)))
    maps = (thresholds.MapThresholds((4, 64), (table, table)),)
    monkeypatch.setattr("sparseq.compression.break_even.thresholds", lambda *_: maps)
    few, many = nn.Sequential(nn.Linear(8, 4)), nn.Sequential(nn.Linear(100, 10))
    assert reasons(few, caplog) == [f"layers below 100 weights {MEASURE}"]
    assert reasons(many, caplog, batch=2) == [f"batches below 4 {MEASURE}"]
    (pays,) = reasons(many, caplog, batch=64)
    assert pays.startswith("density 0.5 and batch 64: sparse pays up to density 0.2")
    (never,) = reasons(many, caplog, batch=4)
    assert never.startswith("density 0.5 and batch 4: sparse pays at no density")
    conv = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    assert reasons(conv, caplog, in_shape=(4, 1, 1)) == [f"maps below 4 positions {MEASURE}"]
    grouped = nn.Sequential(nn.Conv2d(32, 32, 3, groups=4))
    assert reasons(grouped, caplog) == [f"convolutions with groups {MEASURE}"]


def test_tables_of_another_cpu_are_named(caplog, monkeypatch):
    here, other = cpu_class(), CpuClass("avx2", 32, None, None)
    model = nn.Sequential(nn.Linear(1024, 1024))
    table, mask = measured().cpu.name, {"0.weight": torch.rand(1024, 1024) < 0.97}
    for cpu in {here, measured().cpu, other}:
        monkeypatch.setattr("sparseq.compression.table_rule.cpu_class", lambda cpu=cpu: cpu)
        (reason,) = reasons(model, caplog, mask=mask)
        elsewhere = f", measured on {table}, not on this {cpu.name}"
        assert reason.endswith(elsewhere) is (cpu.name != table)


def test_without_compiled_kernels_everything_stays_dense(caplog, monkeypatch):
    served = {"spmm": "reference", "sparse_conv": "compiled"}
    monkeypatch.setattr("sparseq.compression.table_rule.activate", lambda device: served)
    model = nn.Sequential(nn.Linear(512, 512))
    mask = {"0.weight": torch.eye(512).bool()}
    with caplog.at_level(logging.INFO, "sparseq"):
        assert type(compress(model, mask)[0]) is nn.Linear
    assert "0 (Linear, 0.195 % kept) stays dense: there are no compiled kernels" in caplog.text
    served["spmm"] = "compiled"
    assert type(compress(model, mask)[0]) is SparseLinear


def test_auto_logs_what_was_not_measured(caplog, monkeypatch):
    monkeypatch.setattr("sparseq.compression.break_even.thresholds", lambda *_: ())
    assert reasons(nn.Sequential(nn.Conv2d(4, 8, 3)), caplog) == [f"layers of its kind {MEASURE}"]
