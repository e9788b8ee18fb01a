"""The table that `pytest --benchmark` prints as a suite ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from bench.baselines import BEST, CALLED
from bench.results import Row, case_of

# what a row says beside its case, its times and its ratios
HIDDEN = {
    *("machine", "cpu", "cores", "isa", "torch", "commit", "date"),
    *("suite", "headline", "rounds", "others", "form", "peak_gflops", "seed"),
}
PER_BASELINE = ("baseline", "baseline_us", "ratio", "form")
HEADINGS = {
    "gflops": "GFLOP/s",
    "percent_of_peak": "% of peak",
    "ours_us": "ours (us)",
    "threads": "thr.",
}
COLUMNS = {**dict.fromkeys(CALLED, "x called"), BEST: "x best dense"}
USUAL = "compiled"  # the kernel that goes without saying
LEAST_WIDTH = 150


def print_tables(rows: Sequence[Row], file: TextIO, width: int) -> None:
    """A table per suite of the rows."""
    console = Console(file=file, width=max(width, LEAST_WIDTH))
    suites: dict[str, list[Row]] = {}
    for row in rows:
        suites.setdefault(row["suite"], []).append(row)
    for name, lines in suites.items():
        console.print(results_table(name, lines))


def results_table(title: str, rows: Sequence[Row]) -> Table:
    """A line per case, a column of ratios per baseline: its median time / ours."""
    lines = side_by_side(rows)
    if all(line.get("kernel", USUAL) == USUAL for line in lines):
        lines = [{name: line[name] for name in line if name != "kernel"} for line in lines]
    columns = dict.fromkeys(name for line in lines for name in line if name not in HIDDEN)
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in columns:
        heading = HEADINGS.get(name, name.replace("_", " "))
        table.add_column(heading, justify="left" if name == "subject" else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(text(line.get(name, "")) for name in columns))
    return table


def text(value: object) -> str:
    """A cell; numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) and value < 1e4 else f"{value}"


def side_by_side(rows: Sequence[Row]) -> list[Row]:
    """Rows that differ by their baseline only, joined; rows without one as they are."""
    lines: dict[tuple[str, ...], Row] = {}
    for row in rows:
        line = lines.setdefault(case_of({**row, "baseline": ""}), {})
        line.update({name: value for name, value in row.items() if name not in PER_BASELINE})
        if "baseline" in row:
            name = row["baseline"]
            line[COLUMNS.get(name, f"x {name}")] = f"{row['ratio']:.2f}"
    return list(lines.values())
