"""Useful GFLOP/s against density, under the dense rate and the peak: a roofline of the layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.baselines import BEST
from bench.results import Row
from bench.timing import QUIET as UNDISTURBED
from sparseq.reports.figures import save_figure
from sparseq.reports.figures.canvas import COLORS, FAINT, INK, QUIET

WIDTH = 2048  # inputs and outputs of the layer drawn
SPEEDUPS = [1, 2, 4, 8, 16]
TICKS_X, TICKS_Y = [50, 20, 10, 5, 2], [2, 5, 10, 20, 50, 100, 200]
# subject, batch, name, color, marker
LINES = [
    ("Linear", 512, "SparseLinear, batch 512", COLORS[0], "o"),
    ("Linear", 64, "SparseLinear, batch 64", COLORS[5], "o"),
    ("Linear", 16, "SparseLinear, batch 16", COLORS[2], "o"),
    ("QLinear by quaternion", 512, "SparseQLinear, batch 512", COLORS[1], "s"),
]
BLOCKS = [
    ("ExpanderLinear block(16)", "block(16), batch 512", "D", COLORS[4]),
    ("ExpanderLinear block(64)", "block(64), batch 512", "D", COLORS[3]),
]

LINE: dict[str, Any] = {
    "markersize": 4.5,
    "linewidth": 1.7,
    "markeredgecolor": "white",
    "markeredgewidth": 0.5,
}
POINT: dict[str, Any] = {"markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.6}


@dataclass(frozen=True)
class Roof:
    """Rates in GFLOP/s that bound a panel, and the name of the dense one."""

    peak: float | None
    dense: float
    name: str


def useful(density: float, batch: int, microseconds: float) -> float:
    """GFLOP/s counting two per kept weight of the real layer and example."""
    return 2e-3 * density * WIDTH**2 * batch / microseconds


def threads_drawn(rows: Iterable[Row]) -> list[int]:
    """The numbers of threads, 1 and 2, that have a dense rate and a sparse layer to draw."""
    rows = list(rows)
    by_count = {count: [row for row in rows if row.get("threads") == count] for count in (1, 2)}
    return [
        count
        for count, some in by_count.items()
        if _dense_times(some) and any(_timed(some, line[0], line[1]) for line in LINES)
    ]


def can_be_drawn(rows: Iterable[Row]) -> bool:
    """Whether the rows give a figure."""
    return bool(threads_drawn(rows))


def roofline(rows: Iterable[Row]) -> Figure:
    """One panel per number of threads.

    Args:
        rows: of the suites sweep, layers and peak; `can_be_drawn` of them is true.
    """
    rows = list(rows)
    counts = threads_drawn(rows)
    figure = Figure(figsize=(5.4 * len(counts), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axes, count in zip(panels, counts, strict=True):
        _panel(axes, [row for row in rows if row.get("threads") == count], count)
    panels[0].set_ylabel("useful GFLOP/s")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    about = rows[0]
    figure.suptitle(
        f"Sparse layers of {WIDTH} x {WIDTH}, forward, fp32: {about['cpu']}, {about['isa']}",
        x=0.01,
        ha="left",
        fontsize=11,
        color=INK,
    )
    return figure


def _panel(axes: Axes, rows: list[Row], count: int) -> None:
    roof = _roof(rows)
    _style(axes, f"{count} thread{'s' if count > 1 else ''}", roof)
    for subject, batch, name, color, marker in LINES:
        for row in _timed(rows, subject, batch):
            rates = [
                useful(density, batch, time)
                for density, time in zip(row["densities"], row["ours_us"], strict=True)
            ]
            percent = [100 * density for density in row["densities"]]
            axes.plot(percent, rates, color=color, marker=marker, label=name, zorder=4, **LINE)
    for subject, name, marker, color in BLOCKS:
        points = {row["density"]: row["ours_us"] for row in _cases(rows, "layers", subject, 512)}
        rates = [useful(density, 512, time) for density, time in points.items()]
        percent = [100 * density for density in points]
        if not points:
            continue
        axes.plot(percent, rates, marker, color=color, label=name, zorder=5, **POINT)


def _timed(rows: list[Row], subject: str, batch: int) -> list[Row]:
    """The row of the sweep; without its times, those of the layers suite as one such row."""
    swept = [row for row in _cases(rows, "sweep", subject, batch) if "ours_us" in row]
    found = _cases(rows, "layers", f"Sparse{subject}", batch)
    points = {row["density"]: row for row in found if row.get("others", 1.0) < UNDISTURBED}
    if swept or not points:
        return swept
    kept = sorted(points)
    return [{"densities": kept, "ours_us": [points[density]["ours_us"] for density in kept]}]


def _cases(rows: list[Row], suite: str, subject: str, batch: int) -> list[Row]:
    case = {
        "suite": suite,
        "subject": subject,
        "batch": batch,
        "case": f"{WIDTH}x{WIDTH}",
        "step": "forward",
    }
    return [row for row in rows if all(row.get(name) == value for name, value in case.items())]


def _dense_times(rows: list[Row]) -> dict[str, list[float]]:
    """Name of a dense form -> its times on the layer drawn; the best form known comes first."""
    found: dict[str, list[float]] = {}
    for name in (BEST, "nn.Linear fp32"):
        for row in _cases(rows, "layers", "SparseLinear", 512):
            if row["baseline"] == name and row.get("others", 1.0) < UNDISTURBED:
                found.setdefault(name, []).append(row["baseline_us"])
    for row in _cases(rows, "sweep", "Linear", 512):
        found.setdefault("nn.Linear fp32", []).extend(row.get("baseline_us", []))
    return {name: times for name, times in found.items() if times}


def _roof(rows: list[Row]) -> Roof:
    peaks = [row["gflops"] for row in rows if row["suite"] == "peak"]
    name, times = next(iter(_dense_times(rows).items()))
    return Roof(max(peaks, default=None), useful(1, 512, median(times)), name)


def _style(axes: Axes, title: str, roof: Roof) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(80, 1.6)
    axes.set_ylim(8, max(290, 1.25 * (roof.peak or 0)))
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("weights kept (%)")
    for axis, ticks in ((axes.xaxis, TICKS_X), (axes.yaxis, TICKS_Y)):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_axisbelow(True)
    _roof_lines(axes, roof)


def _roof_lines(axes: Axes, roof: Roof) -> None:
    """The peak, the dense rate, and the rates at which a layer is so many times faster."""
    # the dense label goes below its line: the two rates may be close
    lines = [(roof.peak, "peak", "-", "bottom"), (roof.dense, roof.name, (0, (5, 2)), "top")]
    for rate, name, line, side in lines:
        if rate is None:
            continue
        axes.axhline(rate, color=INK, linewidth=1.1, linestyle=line, zorder=2)
        axes.text(
            1.65,
            rate * (1.02 if side == "bottom" else 0.97),
            f"{name} {rate:.0f}",
            ha="right",
            va=side,
            fontsize=8.5,
            color=INK,
        )
    low, high = axes.get_ylim()
    for times in SPEEDUPS:
        ends = (100, 1)
        axes.plot(
            ends,
            [roof.dense * percent / 100 * times for percent in ends],
            color=FAINT,
            linewidth=1,
            zorder=1,
        )
        percent = max(1.65, 100 * low * 1.12 / (roof.dense * times))
        rate = roof.dense * percent / 100 * times
        if rate < high:
            axes.text(
                percent,
                rate,
                f"{times}x dense",
                fontsize=7.5,
                color=QUIET,
                ha="right",
                va="bottom",
                zorder=1,
            )


def write_roofline(rows: Iterable[Row], folder: Path) -> Path:
    """Draw and save roofline.png."""
    return save_figure(roofline(rows), folder / "roofline.png", overwrite=True, dpi=160)
