"""Accuracy against the percentage of remaining weights: the figure of lottery-ticket papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sparseq.errors import require
from sparseq.reports.figures.canvas import COLORS, INK, QUIET, new_figure
from sparseq.reports.figures.catalog import FIGURES

MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
DOTTED, BARS = "dotted: unpruned", " \u00b7 bars: one standard deviation across trials"
TICKS = [100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01]


@dataclass(frozen=True)
class Curve:
    """One line of the figure.

    Attributes:
        name: legend entry.
        densities: (n) fraction kept of this network's prunable weights, in (0, 1].
        accuracy: (n) mean over the trials, in 0..1.
        deviation: (n) standard deviation over the trials, in 0..1; zero for a single trial.
        weights: number of prunable weights of the unpruned network.
    """

    name: str
    densities: Sequence[float]
    accuracy: Sequence[float]
    deviation: Sequence[float]
    weights: int


@FIGURES.register("accuracy")
def accuracy_figure(
    curves: Sequence[Curve], title: str = "", ylabel: str = "test accuracy (%)"
) -> Figure:
    """Accuracy against the percentage of remaining weights, on a reversed log scale.

    x = 100 density * weights / curves[0].weights: the first curve's network is the 100 %. A
    quaternion network has a quarter of the weights and therefore starts near 25 %; points at the
    same x have the same number of weights. Bars are one standard deviation.

    Args:
        curves: the lines, in the order of the legend.
        title: of the figure.
        ylabel: label of the y axis.

    Returns:
        A matplotlib figure; `save_figure` writes it.

    Raises:
        ValueError: no curves, a curve whose sequences differ in length or are empty, or a density
            that is not positive.

    Source: Frankle & Carbin 2019, fig. 3; Iqbal & Mishra 2023, figs. 3-5.
    """
    require(len(curves) > 0, "accuracy_figure", "curves", "must not be empty", "none")
    figure, axes = new_figure()
    for index, curve in enumerate(curves):
        _check(curve)
        _draw(axes, curve, curves[0].weights, index)
    _scale_x(axes, curves)
    _scale_y(axes, curves)
    axes.set_xlabel(f"remaining weights (% of the {curves[0].name} network's)")
    axes.set_ylabel(ylabel)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.legend(frameon=False, loc="lower left")
    bars = BARS if any(any(curve.deviation) for curve in curves) else ""
    axes.text(
        0.995, 1.015, DOTTED + bars, transform=axes.transAxes, ha="right", fontsize=8, color=QUIET
    )
    return figure


def _check(curve: Curve) -> None:
    sizes = {len(curve.densities), len(curve.accuracy), len(curve.deviation)}
    rule = "must have as many accuracies and deviations as densities, at least one"
    require(len(sizes) == 1 and 0 not in sizes, "accuracy_figure", curve.name, rule, sorted(sizes))
    positive = all(density > 0 for density in curve.densities)
    require(positive, "accuracy_figure", curve.name, "must have densities above 0", "0 or less")


def _percent(curve: Curve, reference: int) -> list[float]:
    return [100 * density * curve.weights / reference for density in curve.densities]


def _draw(axes: Axes, curve: Curve, reference: int, index: int) -> None:
    color = COLORS[index % len(COLORS)]
    x, y = _percent(curve, reference), [100 * value for value in curve.accuracy]
    axes.axhline(y[0], color=color, linewidth=0.9, linestyle=(0, (2, 3)), alpha=0.8, zorder=1)
    bars = [100 * value for value in curve.deviation] if any(curve.deviation) else None
    axes.errorbar(
        x,
        y,
        yerr=bars,
        label=f"{curve.name}, {curve.weights:,} weights",
        color=color,
        marker=MARKERS[index % len(MARKERS)],
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linewidth=1.6,
        elinewidth=1,
        capsize=2.5,
        zorder=3 + index,
    )


def _scale_x(axes: Axes, curves: Sequence[Curve]) -> None:
    points = [x for curve in curves for x in _percent(curve, curves[0].weights)]
    axes.set_xscale("log")
    axes.set_xlim(max(points) * 1.15, min(points) / 1.15)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _scale_y(axes: Axes, curves: Sequence[Curve]) -> None:
    """Limits that include every bar, at most half a point above 100 %."""
    bars = [
        (100 * (mean - spread), 100 * (mean + spread))
        for curve in curves
        for mean, spread in zip(curve.accuracy, curve.deviation, strict=True)
    ]
    low, high = min(bar[0] for bar in bars), max(bar[1] for bar in bars)
    margin = max(0.08 * (high - low), 0.5)
    axes.set_ylim(max(low - margin, 0), min(high + margin, 100.5))
