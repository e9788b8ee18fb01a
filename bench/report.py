"""Tables of the README and of NOTES.md, and the figures, from the rows that are kept.

    python -m bench.report

The README's section has every machine with rows; NOTES.md has the tables of one of them. Each table
stands between `<!-- results:NAME -->` and `<!-- /results:NAME -->` and is replaced.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.figure import can_be_drawn, write_roofline
from bench.machine import RESULTS, ROOT, machine
from bench.results import Row, load_rows
from bench.tables.notes import NOTES
from bench.tables.speed import speed_section
from sparseq.files.atomic import write_atomically

README, NOTES_FILE = ROOT / "README.md", ROOT / "bench" / "NOTES.md"


def machines_of(results: Path) -> dict[str, list[Row]]:
    """Machine -> its rows, of every folder that has some."""
    found = {path.name: load_rows(path) for path in sorted(results.iterdir()) if path.is_dir()}
    return {name: rows for name, rows in found.items() if rows}


def fill(text: str, name: str, body: str) -> str:
    """The text with `body` between the markers of that name; the closing one is added if missing.

    Raises:
        ValueError: there is no opening marker.
    """
    opening, closing = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    if opening not in text:
        raise ValueError(f"no {opening} to fill")
    if closing not in text:
        text = text.replace(opening, f"{opening}\n{closing}")
    between = re.compile(f"{re.escape(opening)}.*?{re.escape(closing)}", re.S)
    return between.sub(lambda _: f"{opening}\n{body.strip()}\n{closing}", text)


def draw_figures(machines: Mapping[str, Sequence[Row]], results: Path) -> dict[str, Path]:
    """The figure of every machine whose rows give one."""
    return {
        name: write_roofline(rows, results / name)
        for name, rows in machines.items()
        if can_be_drawn(rows)
    }


def report(results: Path, notes_of: str, readme: Path = README, notes: Path = NOTES_FILE) -> None:
    """Write the figures, and the tables into the README and the notes.

    Args:
        results: a folder per machine.
        notes_of: the machine whose rows fill the notes; they stay as they are if it has none.
        readme: the file with the section on speed.
        notes: the file with a table per suite.
    """
    machines = machines_of(results)
    figures = draw_figures(machines, results)
    paths = {name: path.relative_to(readme.parent) for name, path in figures.items()}
    text = fill(readme.read_text(), "speed", speed_section(machines, paths))
    write_atomically(readme, text.encode(), overwrite=True)
    if notes_of in machines:
        text = notes.read_text()
        for name, table in NOTES.items():
            text = fill(text, name, table(machines[notes_of]))
        write_atomically(notes, text.encode(), overwrite=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the machines")
    parser.add_argument("--notes-of", help="machine whose tables go to NOTES.md (this one)")
    chosen = parser.parse_args(arguments)
    report(chosen.results, chosen.notes_of or machine(chosen.results)["machine"])
    print(f"{README} and {NOTES_FILE} from {chosen.results}")


if __name__ == "__main__":
    main()
