"""Rows of results, and files that keep them.

A suite has one JSON and one CSV file per machine, `<folder>/<machine>/<suite>.json|.csv`. A row of
a later run replaces the row of the same case and leaves the others, each with its own commit.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparseq.files.atomic import write_atomically

Row = dict[str, Any]
# what says which case a row is of; everything else in it is measured or describes the run
CASE = ("suite", "subject", "case", "step", "batch", "density", "threads", "baseline", "seed")


def case_of(row: Row) -> tuple[str, ...]:
    """Key of a row: two rows with one key are measurements of the same thing."""
    return tuple(str(row.get(name, "")) for name in (*CASE, "isa"))


def merge(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Old rows in their order with new ones in place of their predecessors, then the rest."""
    merged = {case_of(row): row for row in old}
    merged.update((case_of(row), row) for row in new)
    return list(merged.values())


def save_rows(rows: Iterable[Row], folder: Path) -> list[Path]:
    """Merge rows into the files of their machines and suites below `folder`.

    Returns:
        The JSON files.
    """
    files: dict[Path, list[Row]] = {}
    for row in rows:
        files.setdefault(folder / row["machine"] / f"{row['suite']}.json", []).append(row)
    for path, new in files.items():
        _save(path, new)
    return list(files)


def _save(path: Path, new: list[Row]) -> None:
    old = json.loads(path.read_text()) if path.exists() else []
    rows = merge(old, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode(), overwrite=True)
    write_atomically(path.with_suffix(".csv"), _csv(rows).encode(), overwrite=True)


def _csv(rows: list[Row]) -> str:
    out = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def load_rows(folder: Path) -> list[Row]:
    """All rows of a machine."""
    return [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())]
