"""The accuracy figure: its axes, the scale for networks of different sizes, and its errors."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from sparseq.reports.figures import FIGURES, Curve, accuracy_figure

REAL = Curve("real", [1, 0.5, 0.1], [0.98, 0.981, 0.9], [0.001, 0.002, 0.02], 1000)
QUATERNION = Curve("quaternion", [1, 0.5, 0.1], [0.97, 0.96, 0.8], [0, 0, 0], 250)


def lines(figure):
    """Points of each line by its name; the labels are those of the error bars."""
    containers = figure.axes[0].containers
    return {box.get_label().split(",")[0]: box.lines[0].get_xydata().tolist() for box in containers}


def test_x_is_log_and_reversed_and_includes_every_point():
    axes = accuracy_figure([REAL, QUATERNION]).axes[0]
    left, right = axes.get_xlim()
    assert axes.get_xscale() == "log"
    assert left > 100 > 2.5 > right


def test_a_smaller_network_starts_at_its_size_relative_to_the_first():
    points = lines(accuracy_figure([REAL, QUATERNION]))
    assert points["real"][0] == [100, 98]
    assert points["quaternion"][0] == [25, 97]
    assert points["quaternion"][2] == pytest.approx([2.5, 80])


def test_error_bars_are_the_deviations_in_percent():
    box = accuracy_figure([REAL]).axes[0].containers[0]
    (low, high) = box.lines[2][0].get_segments()[2][:, 1]
    assert (low, high) == pytest.approx((88, 92))


def test_y_ends_at_most_half_a_point_above_100_percent():
    axes = accuracy_figure([Curve("perfect", [1, 0.5], [1, 1], [0, 0.1], 10)]).axes[0]
    assert axes.get_ylim()[1] == 100.5


def test_a_single_point_is_drawn():
    assert lines(accuracy_figure([Curve("one", [1], [0.5], [0], 10)])) == {"one": [[100, 50]]}


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([], "curves must not be empty"),
        ([Curve("a", [1, 0.5], [0.9], [0.0, 0.0], 10)], "as many accuracies"),
        ([Curve("a", [], [], [], 10)], "as many accuracies"),
        ([Curve("a", [0.0], [0.9], [0.0], 10)], "densities above 0"),
    ],
)
def test_bad_curves_are_rejected(curves, message):
    with pytest.raises(ValueError, match=message):
        accuracy_figure(curves)


def test_pyplot_is_not_used():
    accuracy_figure([REAL])
    assert plt.get_fignums() == []


def test_is_registered():
    assert FIGURES.get("accuracy") is accuracy_figure
