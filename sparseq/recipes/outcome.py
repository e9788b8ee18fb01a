"""The results of a recipe for a single network: written, read and printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sparseq.recipes.folder import RunFolder, read_object
from sparseq.recipes.results import RESULTS

MODEL_FILE = "model.sparseq"


@dataclass(frozen=True)
class Outcome:
    """The results of a run that ends with one network.

    Attributes:
        folder: of the run; the network is in its file model.sparseq.
        metrics: name -> number.
    """

    folder: Path
    metrics: dict[str, Any]

    def write(self, folder: RunFolder) -> None:
        """Write the file that marks the run as complete."""
        folder.write_json(RESULTS, self.metrics)

    @classmethod
    def read(cls, folder: Path) -> Outcome:
        """The outcome of a complete run; ValueError if its file is damaged."""
        return cls(folder, read_object(folder / RESULTS, "Outcome.read"))

    def show(self, console: Console) -> None:
        """Print the metrics and the path of the network."""
        table = Table(show_header=False)
        for name, value in self.metrics.items():
            table.add_row(name.replace("_", " "), _text(name, value))
        console.print(table)
        console.print(f"network: {self.folder / MODEL_FILE}", highlight=False, soft_wrap=True)


def _text(name: str, value: Any) -> str:
    if isinstance(value, float):
        percent = name.endswith("accuracy") or name == "density"
        return f"{100 * value:.2f} %" if percent else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
