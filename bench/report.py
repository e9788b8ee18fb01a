"""Tables of the README and of NOTES.md, and the figure, from the rows that are kept.

    python -m bench.report

Each table stands between `<!-- results:NAME -->` and `<!-- /results:NAME -->` and is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path

from bench.figure import write_roofline
from bench.results import ROOT, Row, machine
from bench.tables import NOTES, speed_section
from sparseq.files.container import write_atomically

README, NOTES_FILE = ROOT / "README.md", ROOT / "bench" / "NOTES.md"


def load_rows(folder: Path) -> list[Row]:
    """All rows of a machine."""
    return [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())]


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


def report(rows: Iterable[Row], folder: Path) -> None:
    """Write the figure, and the tables into the README and the notes."""
    rows = list(rows)
    figure = write_roofline(rows, folder)
    readme = fill(README.read_text(), "speed", speed_section(rows, figure.relative_to(ROOT)))
    write_atomically(README, readme.encode(), overwrite=True)
    notes = NOTES_FILE.read_text()
    for name, table in NOTES.items():
        notes = fill(notes, name, table(rows))
    write_atomically(NOTES_FILE, notes.encode(), overwrite=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--machine", default=machine()["machine"], help="folder of the rows")
    folder = ROOT / "bench" / "results" / parser.parse_args(arguments).machine
    report(load_rows(folder), folder)
    print(f"{README}, {NOTES_FILE} and {folder / 'roofline.png'} from {folder}")


if __name__ == "__main__":
    main()
