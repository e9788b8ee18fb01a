"""What a finished run of pruning rounds found: written, read and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
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
CONFIG_SHOWN, TIMING = ("model", "data"), ("batch", "threads", "processor")
HEADINGS = [
    "\nround",
    "weights\nleft",
    "validation\n%",
    "test\n%",
    "bytes\non disk",
    "dense\nms",
    "sparse\nms",
    "speed\nup",
]


@dataclass(frozen=True)
class Level:
    """One line of the final table: a network at one round, over all trials that reached it.

    Accuracies are means with sample standard deviations, 0..1; `size` is the compressed file in
    bytes and the times are milliseconds per forward pass, all three of the first trial.
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
        folder: where the run lies.
        config: its identity.
        levels: by network, then by round.
        timing: how the times were measured: machine, threads, batch.
    """

    folder: Path
    config: dict[str, Any]
    levels: list[Level]
    timing: dict[str, Any]

    @property
    def algebras(self) -> list[str]:
        """The networks, in order."""
        return list(dict.fromkeys(level.algebra for level in self.levels))

    def of(self, algebra: str) -> list[Level]:
        """The levels of one network."""
        return [level for level in self.levels if level.algebra == algebra]

    def curves(self) -> list[Curve]:
        """Test accuracy against density, for the figure."""
        return [_curve(algebra, self.of(algebra)) for algebra in self.algebras]

    def write(self, folder: RunFolder) -> None:
        """Write the table as JSONL and CSV, then the file that marks the run as finished."""
        log = RowLog(folder.path, TABLE)
        log.drop(lambda row: True)
        for level in self.levels:
            log.append(asdict(level))
        levels = [asdict(level) for level in self.levels]
        folder.write_json(RESULTS, {"config": self.config, "levels": levels, "timing": self.timing})

    @classmethod
    def read(cls, folder: Path) -> Results:
        """The results of a finished run; ValueError if the file is damaged."""
        path = folder / RESULTS
        found = read_object(path, "Results.read")
        for name, kind in {"config": dict, "levels": list, "timing": dict}.items():
            part = found.get(name)
            require(
                isinstance(part, kind) and bool(part),
                "Results.read",
                str(path),
                f"must hold {name!r}, a filled {kind.__name__}",
                repr(part)[:80],
            )
        _check_names(found["config"], CONFIG_SHOWN, f"{path}: config")
        _check_names(found["timing"], TIMING, f"{path}: timing")
        for row in found["levels"]:
            _check_level(row, path)
        return cls(
            folder, found["config"], [Level(**row) for row in found["levels"]], found["timing"]
        )

    def show(self, console: Console) -> None:
        """Print one table for each network, what it comes to, and where the files are."""
        for algebra in self.algebras:
            console.print(level_table(self, algebra))
            console.print(summary(self.of(algebra)) + "\n", highlight=False)
        timing = self.timing
        console.print(
            f"times: one forward pass of {timing['batch']} examples, "
            f"{timing['threads']} thread(s), {timing['processor']}",
            highlight=False,
        )
        for what, name in FILES.items():
            console.print(f"{what}: {self.folder / name}", highlight=False, soft_wrap=True)


def _check_names(found: dict[str, Any], names: Sequence[str], argument: str) -> None:
    missing = [name for name in names if name not in found]
    require(
        not missing,
        "Results.read",
        argument,
        f"must hold {', '.join(names)}",
        f"none of the name {', '.join(missing)}",
    )


def _check_level(row: Any, path: Path) -> None:
    """ValueError unless a row has the columns of a Level, and numbers where numbers belong."""
    known = {field.name for field in fields(Level)}
    got = sorted(row) if isinstance(row, dict) else row
    require(
        got == sorted(known),
        "Results.read",
        str(path),
        "must hold the columns of this version in every level",
        got,
    )
    for name in sorted(known - {"algebra"}):
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


def level_table(results: Results, algebra: str) -> Table:
    """All rounds of one network."""
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
    """The sparsest network whose mean validation accuracy is within half a point of the dense."""
    dense = levels[0]
    enough = dense.validation_accuracy - 0.005
    ticket = next(lv for lv in reversed(levels) if lv.validation_accuracy >= enough)
    return (
        f"{ticket.algebra}: {_percent(ticket.density)} of the weights keep the validation "
        f"accuracy within half a point; test {100 * dense.test_accuracy:.2f} -> "
        f"{100 * ticket.test_accuracy:.2f} %, {dense.size:,} -> {ticket.size:,} bytes "
        f"({ratio_text(dense.size / ticket.size, 'smaller', 'larger')}), "
        f"{ratio_text(ticket.speed_up, 'faster', 'slower')}"
    )


def ratio_text(ratio: float, above: str, below: str) -> str:
    """A ratio in words: "1.50x faster", or of its inverse "1.20x slower"."""
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
