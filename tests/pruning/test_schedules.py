"""Schedules: densities after each pruning."""

from __future__ import annotations

import pytest

from sparseq.pruning import SCHEDULES, geometric, one_shot


def test_geometric_removes_a_fifth_of_the_remaining_weights():
    assert geometric(3) == pytest.approx([0.8, 0.64, 0.512])
    assert geometric(15)[-1] == pytest.approx(0.0352, abs=1e-4)
    assert geometric(2, rate=0.5, start=0.4) == pytest.approx([0.2, 0.1])
    assert geometric(2, rate=0.0) == [1.0, 1.0]


def test_one_shot_is_a_single_density():
    assert one_shot(0.1) == [0.1]
    assert one_shot(1) == [1.0]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rounds": 3, "rate": 1.0}, "rate"),
        ({"rounds": 3, "rate": -0.1}, "rate"),
        ({"rounds": 3, "start": 0.0}, "start"),
        ({"rounds": 3, "start": 1.5}, "start"),
    ],
)
def test_geometric_rejects_values_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=f"geometric: {name} must"):
        geometric(**arguments)


@pytest.mark.parametrize("density", [0, -1, 1.01, float("nan")])
def test_one_shot_rejects_values_out_of_range(density):
    with pytest.raises(ValueError, match="one_shot: density must"):
        one_shot(density)


def test_schedules_are_registered():
    assert SCHEDULES.names() == ["geometric", "one_shot"]
