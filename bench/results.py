"""Rows of results: which machine and commit they come from, and files that keep them.

A suite has one JSON and one CSV file per machine, `<folder>/<machine>/<suite>.json|.csv`. A row of
a later run replaces the row of the same case and leaves the others, each with its own commit.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sparseq.files.container import write_atomically
from sparseq.ops.build import toolchain

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
# what says which case a row is of; everything else in it is measured or describes the run
CASE = ("suite", "subject", "case", "step", "batch", "density", "threads", "baseline", "seed")


def commit() -> str:
    """Short hash of the checkout, with `+` where tracked files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


@cache
def machine() -> Row:
    """The columns that name machine, software and commit."""
    cores = os.cpu_count() or 1
    cpu = toolchain.cpu_model()
    return {
        "machine": re.sub(r"[^a-z0-9]+", "-", f"{cpu} {cores} cores".lower()).strip("-"),
        "cpu": cpu,
        "cores": cores,
        "isa": toolchain.cpu_isa(),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def case_of(row: Row) -> tuple[str, ...]:
    """Key of a row: two rows with one key are measurements of the same thing."""
    return tuple(str(row.get(name, "")) for name in (*CASE, "isa"))


def merge(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Old rows in their order with new ones in place of their predecessors, then the rest."""
    merged = {case_of(row): row for row in old}
    merged.update((case_of(row), row) for row in new)
    return list(merged.values())


def save_rows(rows: Iterable[Row], folder: Path) -> list[Path]:
    """Merge rows into the files of their suites below `folder`; returns the JSON files."""
    suites: dict[str, list[Row]] = {}
    for row in rows:
        suites.setdefault(row["suite"], []).append(row)
    return [_save_suite(name, new, folder / machine()["machine"]) for name, new in suites.items()]


def _save_suite(suite: str, new: list[Row], folder: Path) -> Path:
    path = folder / f"{suite}.json"
    old = json.loads(path.read_text()) if path.exists() else []
    rows = merge(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode(), overwrite=True)
    write_atomically(path.with_suffix(".csv"), _csv(rows).encode(), overwrite=True)
    return path


def _csv(rows: list[Row]) -> str:
    out = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
