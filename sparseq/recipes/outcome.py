"""What a recipe for a single network found: written, read and shown."""

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
    """Named figures about one network, which lies in `folder` as model.sparseq."""

    folder: Path
    figures: dict[str, Any]

    def write(self, folder: RunFolder) -> None:
        """Write the file that marks the run as finished."""
        folder.write_json(RESULTS, self.figures)

    @classmethod
    def read(cls, folder: Path) -> Outcome:
        """The outcome of a finished run; ValueError if the file is damaged."""
        return cls(folder, read_object(folder / RESULTS, "Outcome.read"))

    def show(self, console: Console) -> None:
        """Print the figures and where the network is."""
        table = Table(show_header=False)
        for name, value in self.figures.items():
            table.add_row(name.replace("_", " "), _text(name, value))
        console.print(table)
        console.print(f"network: {self.folder / MODEL_FILE}", highlight=False, soft_wrap=True)


def _text(name: str, value: Any) -> str:
    if isinstance(value, float):
        percent = name.endswith("accuracy") or name == "density"
        return f"{100 * value:.2f} %" if percent else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
