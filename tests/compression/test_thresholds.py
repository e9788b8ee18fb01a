"""The rule of `compress(policy="auto")`: conservative between its points, and as measured."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import nn

from bench import break_even_sweep as sweep
from sparseq.compression import thresholds
from sparseq.compression.break_even import break_even, keeps_whole, row_of
from sparseq.compression.map_sizes import map_sizes
from sparseq.nn.layer_types import LAYER_TYPES
from sparseq.nn.quaternion.conv import QConv1d, QConv2d, QConv3d
from sparseq.nn.quaternion.linear import QLinear
from sparseq.ops.choice import measured, table_file
from tests.source_tree import ROOT

TABLES = measured().break_even
# shapes of a weight too small to be faster sparse, and of one that is faster
SHAPES = {
    nn.Linear: [((8, 4), (1024, 1024))],
    QLinear: [((4, 2, 1), (4, 256, 256))],
    **{
        kind: [((4, 4, *taps), (512, 512, *taps)), ((4, 4, *ones), (512, 2048, *ones))]
        for kind, taps, ones in (
            (nn.Conv1d, (3,), (1,)),
            (nn.Conv2d, (3, 3), (1, 1)),
            (nn.Conv3d, (3, 3, 3), (1, 1, 1)),
        )
    },
    **{
        kind: [((4, 1, 1, *taps), (4, 128, 128, *taps)), ((4, 1, 1, *ones), (4, 128, 512, *ones))]
        for kind, taps, ones in (
            (QConv1d, (3,), (1,)),
            (QConv2d, (3, 3), (1, 1)),
            (QConv3d, (3, 3, 3), (1, 1, 1)),
        )
    },
}
# every layer for which the recorded tables have a row
LAYERS = [
    (kind, small, large, whole, training)
    for kind, pairs in SHAPES.items()
    for small, large in pairs
    for whole in (False, True)
    for training in (False, True)
    if thresholds.STEPS[training] in TABLES.get(row_of(kind, large, whole), {})
]
# kind of row -> the layer that reads it
READERS = {
    row_of(kind, large, whole): (kind, large, whole)
    for kind, _, large, whole, training in reversed(LAYERS)
}


def test_the_rule_covers_every_converter_and_every_table():
    sparse = [entry for entry in LAYER_TYPES.entries() if entry.converts]
    assert {entry.twin for entry in sparse} == SHAPES.keys()
    assert all(entry.break_even for entry in sparse)
    assert TABLES.keys() == READERS.keys()
    for kind, small, large, whole, training in LAYERS:
        options = {"whole": whole, "training": training}
        assert 0.02 <= break_even(kind, large, **options) < 1, (kind, large, options)
        assert break_even(kind, small, **options) == 0, (kind, small, options)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("training", [False, True], ids=thresholds.STEPS)
def test_the_rule_is_conservative_between_its_points(name, training, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    kind, shape, whole = READERS[name]
    (maps,) = thresholds.thresholds(name, thresholds.STEPS[training], 1)
    assert list(maps.positions) == sorted(set(maps.positions))
    for positions, table in zip(maps.positions, maps.tables, strict=True):
        assert list(table.weights) == sorted(set(table.weights))
        assert list(table.batches) == sorted(set(table.batches))
        for weights in (table.weights[0] - 1, *table.weights, 300_000, 10**8):
            for batch in (1, *table.batches, 33, 200, 10**5):
                near = [
                    table.limits[i][j]
                    for i in thresholds.around(table.weights, weights)
                    for j in thresholds.around(table.batches, batch)
                ]
                limit = maps.limit(weights, batch, positions)
                assert limit == min(near, default=0)
                assert limit >= maps.limit(weights, batch) or limit == 0
        for batch in table.batches:
            options = {"whole": whole, "training": training, "positions": positions}
            want = table.limit(math.prod(shape), batch)
            assert break_even(kind, shape, batch, **options) == want


def test_between_two_points_the_lower_one_counts():
    table = thresholds.Thresholds((100, 1000), (4, 64), ((0.1, 0.5), (0.4, 0.3)))
    assert [table.limit(100, batch) for batch in (3, 4, 5, 64, 1000)] == [0, 0.1, 0.1, 0.5, 0.5]
    assert [table.limit(weights, 64) for weights in (99, 100, 101, 1000, 9999)] == [
        0,
        0.5,
        0.3,
        0.3,
        0.3,
    ]
    assert table.limit(500, 16) == 0.1


def test_maps_of_another_size_count_by_their_neighbors():
    def table(weights, limit):
        return thresholds.Thresholds((weights,), (1,), ((limit,),))

    maps = thresholds.MapThresholds((4, 64, 256), (table(900, 0.1), table(90, 0.4), table(9, 0.3)))
    limits = [maps.limit(1000, 1, positions) for positions in (3, 4, 5, 64, 100, 256, 1024)]
    assert limits == [0, 0.1, 0.1, 0.4, 0.3, 0.3, 0.3]
    assert [maps.limit(weights, 1) for weights in (1000, 100, 10, 8)] == [0.1, 0.3, 0.3, 0]
    assert maps.limit(100, 1, 4) == 0


def test_a_size_counts_once_all_its_batches_are_measured():
    def row(weights, batch, positions, ratio):
        return {
            "subject": "Conv2d 3x3",
            "step": "forward",
            "threads": 1,
            "weights": weights,
            "batch": batch,
            "positions": positions,
            "densities": [0.02],
            "ratios": [ratio],
        }

    rows = [row(9, 1, 4, 2), row(9, 8, 4, 2), row(90, 1, 4, 2), row(9, 1, 64, 0.5)]
    maps = sweep.tables(rows)["Conv2d 3x3"]["forward"]["1"]
    assert maps == {
        "4": {"batches": [1, 8], "limits": {"9": [0.02, 0.02]}},
        "64": {"batches": [1], "limits": {"9": [0.0]}},
    }
    assert thresholds.MapThresholds.from_json(maps).limit(9, 8, 4) == 0.02


def test_masks_that_keep_quaternions_or_kernels_whole():
    slices = torch.rand(6, 4, 1, 1) < 0.5
    slices[0] = True
    quaternions = (torch.rand(2, 3, 3, 3) < 0.5).expand(4, 2, 3, 3, 3).clone()
    assert keeps_whole(nn.Conv2d, slices.expand(6, 4, 3, 3))
    assert not keeps_whole(nn.Conv2d, slices)  # a kernel of one tap is a single weight
    assert not keeps_whole(nn.Linear, slices[..., 0, 0])
    assert keeps_whole(QConv2d, quaternions)
    quaternions[0, 0, 0, 0, 0] ^= True
    assert not keeps_whole(QConv2d, quaternions)
    part = slices.expand(6, 4, 3, 3).clone()
    part[0, 0, 0, 0] = False
    assert not keeps_whole(nn.Conv2d, part)


def test_the_maps_of_a_network_are_measured_without_modifying_it():
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        shared,
        nn.MaxPool2d(2),
        shared,
        nn.Flatten(2),
        nn.Conv1d(4, 4, 2),
        nn.Dropout(),
    ).double()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert map_sizes(model, (3, 9, 13)) == {"0": [24], "2": [24, 6], "6": [5]}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    quaternion = nn.Sequential(QConv2d(4, 8, 3), nn.Flatten(2), QConv1d(8, 4, 1))
    assert map_sizes(quaternion, (4, 6, 5)) == {"0": [12], "2": [12]}
    tokens = nn.Sequential(nn.Linear(6, 4), nn.Flatten(), nn.Linear(20, 2))
    assert map_sizes(tokens, (5, 6)) == {"0": [5], "2": [1]}
    with pytest.raises(ValueError, match=r"in_shape must be the shape of one example .* got \(4,"):
        map_sizes(model, (4, 9, 13))
    with pytest.raises(ValueError, match=r"in_shape must have sizes of at least 1, got \(3, 0\)"):
        map_sizes(model, (3, 0))


def test_the_table_is_that_of_the_recorded_sweep():
    table = table_file(measured().cpu.name)
    source = ROOT / json.loads(table.read_text())["source"]
    rows = json.loads(source.read_text())
    assert json.loads(table.read_text()) == json.loads(sweep.table_text(rows, source, table))
    assert {row["subject"] for row in rows} == READERS.keys() <= set(sweep.KINDS)
    assert {row["threads"] for row in rows} == {1, 2}
    for row in rows:
        at = (row["weights"], row["batch"], row.get("positions", 1))
        (maps,) = thresholds.thresholds(row["subject"], row["step"], row["threads"])
        assert maps.limit(*at) <= sweep.break_even(row)


def test_unmeasured_numbers_of_threads_use_the_lowest_limit(monkeypatch):
    limits = {}
    for threads in (1, 2, 64):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        limits[threads] = break_even(nn.Linear, (128, 128), 64)
    assert limits[64] == min(limits[1], limits[2])


def test_a_break_even_density_ignores_one_disturbed_ratio():
    densities = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]

    def row(*ratios):
        return {"densities": densities[: len(ratios)], "ratios": list(ratios)}

    assert sweep.break_even(row(3, 2, 1.5, 1.1, 0.9)) == 0.4
    assert sweep.break_even(row(3, 0.5, 1.5, 1.1, 0.9)) == 0.4
    assert sweep.break_even(row(3, 2, 0.95, 0.9, 1.6, 0.8)) == 0.2
    assert sweep.break_even(row(0.9, 0.7)) == 0
