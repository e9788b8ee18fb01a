"""The results of a complete run of pruning rounds: written, read and printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from sparseq.errors import require
from sparseq.recipes.folder import RunFolder, read_object
from sparseq.reports.figures import Curve
from sparseq.train import RowLog

RESULTS, TABLE, FIGURE = "results.json", "table", "accuracy.png"
FILES = {
    "figure": FIGURE,
    "table": f"{TABLE}.csv",
    "log": "log.jsonl",
    "networks": "*/trial-*/round-*.sparseq",
}
SHOWN_CONFIG, TIMING = ("model", "data"), ("batch", "threads", "processor")
HEADINGS = [
    "\nround",
    "weights\nkept",
    "validation\n%",
    "test\n%",
    "bytes\non disk",
    "dense\nms",
    "sparse\nms",
    "speed\nup",
]


@dataclass(frozen=True)
class Level:
    """One row of the final table: a network after one round, over all trials that reached it.

    Accuracies are means with sample standard deviations, in 0..1. `size` is that of the compressed
    file in bytes, times are milliseconds per forward pass; these are of a single trial.
    """

    algebra: str
    round: int
    density: float
    kept: int
    weights: int
    trials: int
    validation_accuracy: float
    validation_deviation: float
    test_accuracy: float
    test_deviation: float
    size: int
    dense_ms: float
    sparse_ms: float
    speed_up: float


@dataclass(frozen=True)
class Results:
    """All levels of a run.

    Attributes:
        folder: of the run.
        config: identity of the run.
        levels: sorted by network, then by round.
        timing: conditions of the time measurements: machine, threads, batch.
        notes: algebra -> lines below its table: which pruned layers are dense and why, and where a
            training diverged.
    """

    folder: Path
    config: dict[str, Any]
    levels: list[Level]
    timing: dict[str, Any]
    notes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def algebras(self) -> list[str]:
        """The algebras of the networks, in order."""
        return list(dict.fromkeys(level.algebra for level in self.levels))

    def of(self, algebra: str) -> list[Level]:
        """The levels of one network."""
        return [level for level in self.levels if level.algebra == algebra]

    def curves(self) -> list[Curve]:
        """Test accuracy against density, for the figure."""
        return [_curve(algebra, self.of(algebra)) for algebra in self.algebras]

    def write(self, folder: RunFolder) -> None:
        """Write the table as JSONL and CSV, then the file that marks the run as complete."""
        log = RowLog(folder.path, TABLE)
        log.drop(lambda row: True)
        for level in self.levels:
            log.append(asdict(level))
        levels = [asdict(level) for level in self.levels]
        values = {"config": self.config, "levels": levels, "timing": self.timing}
        folder.write_json(RESULTS, {**values, "notes": self.notes})

    @classmethod
    def read(cls, folder: Path) -> Results:
        """The results of a complete run; ValueError if their file is damaged."""
        path = folder / RESULTS
        stored = read_object(path, "Results.read")
        for name, value_type in {"config": dict, "levels": list, "timing": dict}.items():
            value = stored.get(name)
            require(
                isinstance(value, value_type) and bool(value),
                "Results.read",
                str(path),
                f"must have {name!r}, a non-empty {value_type.__name__}",
                repr(value)[:80],
            )
        _check_names(stored["config"], SHOWN_CONFIG, f"{path}: config")
        _check_names(stored["timing"], TIMING, f"{path}: timing")
        for row in stored["levels"]:
            _check_level(row, path)
        levels = [Level(**row) for row in stored["levels"]]
        notes = stored.get("notes", {})
        _check_notes(notes, path)
        return cls(folder, stored["config"], levels, stored["timing"], notes)

    def show(self, console: Console) -> None:
        """Print a table and a summary for each network, and the paths of the files."""
        for algebra in self.algebras:
            print_levels(self, algebra, console)
            for line in self.notes.get(algebra, []):
                console.print(f"* {line}", highlight=False, markup=False)
            console.print(summary(self.of(algebra)) + "\n", highlight=False)
        timing = self.timing
        console.print(
            f"times: one forward pass of {timing['batch']} examples, "
            f"{timing['threads']} thread(s), {timing['processor']}",
            highlight=False,
        )
        for label, name in FILES.items():
            console.print(f"{label}: {self.folder / name}", highlight=False, soft_wrap=True)


def _check_names(values: dict[str, Any], names: Sequence[str], argument: str) -> None:
    complete = all(name in values for name in names)
    require(complete, "Results.read", argument, f"must have {', '.join(names)}", [*values])


def _check_notes(notes: Any, path: Path) -> None:
    """ValueError unless the notes are {algebra: lines}."""
    lists = notes.values() if isinstance(notes, dict) else [None]
    are_lines = all(isinstance(n, list) and all(isinstance(line, str) for line in n) for n in lists)
    rule = "must have lists of lines in 'notes'"
    require(are_lines, "Results.read", str(path), rule, repr(notes)[:80])


def _check_level(row: Any, path: Path) -> None:
    """ValueError unless a row has the columns of a Level, with numbers in all but the algebra."""
    columns = {each.name for each in fields(Level)}
    got = sorted(row) if isinstance(row, dict) else row
    rule = "must have the columns of this version in every level"
    require(got == sorted(columns), "Results.read", str(path), rule, got)
    for name in sorted(columns - {"algebra"}):
        require(
            isinstance(row[name], int | float),
            "Results.read",
            f"{path}: {name} of a level",
            "must be a number",
            repr(row[name]),
        )


def _curve(algebra: str, levels: Sequence[Level]) -> Curve:
    return Curve(
        algebra,
        [level.density for level in levels],
        [level.test_accuracy for level in levels],
        [level.test_deviation for level in levels],
        levels[0].weights,
    )


def print_levels(results: Results, algebra: str, console: Console) -> None:
    """Print all rounds of one network: a table or, where that is too wide, a line per round."""
    table = level_table(results, algebra)
    unbounded = console.options.update(max_width=10**6)
    if Measurement.get(console, unbounded, table).maximum <= console.width:
        console.print(table)
        return
    console.print(table.title, style="bold", highlight=False, markup=False)
    for level in results.of(algebra):
        cells = zip(HEADINGS, _cells(level), strict=True)
        texts = [_named(heading, cell) for heading, cell in cells]
        console.print(", ".join(texts), highlight=False)


def _named(heading: str, cell: str) -> str:
    """A cell with its heading, whose second line may be its unit."""
    first, second = heading.split("\n")
    if second in ("%", "ms"):
        return f"{first} {cell} {second}"
    return f"{first} {second} {cell}".strip()


def level_table(results: Results, algebra: str) -> Table:
    """A rich table of all rounds of one network."""
    levels = results.of(algebra)
    model, data = results.config["model"], results.config["data"]
    title = f"{model}, {algebra}, on {data}: {levels[0].weights:,} weights"
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for level in levels:
        table.add_row(*_cells(level))
    return table


def summary(levels: list[Level]) -> str:
    """The sparsest level with a mean validation accuracy within half a point of the dense one."""
    dense = levels[0]
    threshold = dense.validation_accuracy - 0.005
    ticket = next(lv for lv in reversed(levels) if lv.validation_accuracy >= threshold)
    return (
        f"{ticket.algebra}: {_percent(ticket.density)} of the weights keep the validation "
        f"accuracy within half a point; test {100 * dense.test_accuracy:.2f} -> "
        f"{100 * ticket.test_accuracy:.2f} %, {dense.size:,} -> {ticket.size:,} bytes "
        f"({ratio_text(dense.size / ticket.size, 'smaller', 'larger')}), "
        f"{ratio_text(ticket.speed_up, 'faster', 'slower')}"
    )


def ratio_text(ratio: float, above: str, below: str) -> str:
    """A ratio in words: "1.50x faster" or, for a ratio below 1, "1.20x slower"."""
    return f"{ratio:.2f}x {above}" if ratio >= 1 else f"{1 / ratio:.2f}x {below}"


def _cells(level: Level) -> list[str]:
    return [
        str(level.round),
        _percent(level.density),
        _accuracy(level.validation_accuracy, level.validation_deviation, level.trials),
        _accuracy(level.test_accuracy, level.test_deviation, level.trials),
        f"{level.size:,}",
        f"{level.dense_ms:.3f}",
        f"{level.sparse_ms:.3f}",
        f"{level.speed_up:.2f}x",
    ]


def _percent(density: float) -> str:
    return f"{100 * density:.1f} %" if density >= 0.1 else f"{100 * density:.2f} %"


def _accuracy(mean: float, deviation: float, trials: int) -> str:
    return f"{100 * mean:.2f}" + (f" ± {100 * deviation:.2f}" if trials > 1 else "")
