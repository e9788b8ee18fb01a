"""The rule of `compress(policy="auto")`: monotone, safe between its points, and as measured."""

from __future__ import annotations

import json

import pytest
from torch import nn

from bench import sweep
from sparseq import thresholds
from sparseq.compression import CONVERTERS, MEASURED, break_even, keep_dense
from sparseq.nn.quaternion import QLinear
from tests.source_tree import ROOT

TABLES = [
    (kind, whole, training)
    for kind in CONVERTERS
    if thresholds.thresholds(MEASURED[kind][0], "forward", 1)
    for whole in ((False, True) if kind is QLinear else (False,))
    for training in (False, True)
]


def test_the_rule_table_covers_every_converter():
    assert CONVERTERS.keys() == MEASURED.keys()
    for kind, whole, training in TABLES:
        options = {"whole": whole, "training": training}
        assert keep_dense(kind, 1.0, (1024, 1024), **options)
        assert not keep_dense(kind, 0.02, (1024, 1024), **options)
        assert keep_dense(kind, 0.02, (8, 4), **options)


@pytest.mark.parametrize(("kind", "whole", "training"), TABLES)
def test_the_rule_is_monotone_in_the_density_and_safe_between_its_points(
    kind, whole, training, monkeypatch
):
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    options = {"whole": whole, "training": training}
    name, step = MEASURED[kind][whole], thresholds.STEPS[training]
    (table,) = thresholds.thresholds(name, step, 1)
    assert list(table.weights) == sorted(set(table.weights))
    assert list(table.batches) == sorted(set(table.batches))
    for weights in (table.weights[0] - 1, *table.weights, 300_000, 10**8):
        for batch in (1, *table.batches, 33, 200, 10**5):
            choices = [keep_dense(kind, density / 100, (weights,), batch, **options)
                       for density in range(101)]  # fmt: skip
            assert choices == sorted(choices), "dense at a density, sparse at a higher one"
            limit = break_even(kind, weights, batch, **options)
            near = [table.limits[i][j] for i in thresholds.around(table.weights, weights)
                    for j in thresholds.around(table.batches, batch)]  # fmt: skip
            assert limit == min(near, default=0)


def test_between_two_points_the_lower_one_counts():
    table = thresholds.Thresholds((100, 1000), (4, 64), ((0.1, 0.5), (0.4, 0.3)))
    assert [table.limit(100, batch) for batch in (3, 4, 5, 64, 1000)] == [0, 0.1, 0.1, 0.5, 0.5]
    assert [table.limit(weights, 64) for weights in (99, 100, 101, 1000, 9999)] == [
        0, 0.5, 0.3, 0.3, 0.3]  # fmt: skip
    assert table.limit(500, 16) == 0.1


def test_the_table_is_that_of_the_recorded_sweep():
    source = ROOT / json.loads(thresholds.FILE.read_text())["source"]
    rows = json.loads(source.read_text())
    assert thresholds.FILE.read_text() == sweep.table_text(rows, source)
    assert {row["subject"] for row in rows} <= {name for pair in MEASURED.values() for name in pair}
    assert {row["threads"] for row in rows} == {1, 2}
    for row in rows:
        step, at = row["step"], (row["weights"], row["batch"])
        (table,) = thresholds.thresholds(row["subject"], step, row["threads"])
        assert table.limit(*at) <= sweep.break_even(row)


def test_threads_that_were_not_measured_take_the_lowest(monkeypatch):
    limits = {}
    for threads in (1, 2, 64):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        limits[threads] = break_even(nn.Linear, 128 * 128, 64)
    assert limits[64] == min(limits[1], limits[2])


def test_a_break_even_density_ignores_one_disturbed_ratio():
    densities = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]

    def row(*ratios):
        return {"densities": densities[: len(ratios)], "ratios": list(ratios)}

    assert sweep.break_even(row(3, 2, 1.5, 1.1, 0.9)) == 0.4
    assert sweep.break_even(row(3, 0.5, 1.5, 1.1, 0.9)) == 0.4
    assert sweep.break_even(row(3, 2, 0.95, 0.9, 1.6, 0.8)) == 0.2
    assert sweep.break_even(row(0.9, 0.7)) == 0
