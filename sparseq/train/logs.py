"""A log of rows as JSON lines, the authoritative file, and as CSV, derived from it."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparseq.files.atomic import naming, write_atomically

Row = dict[str, Any]


class RowLog:
    """Rows of names and JSON values in `folder/name.jsonl` and `folder/name.csv`.

    A row is appended with one write and is on disk when `append` returns. Opening an existing log
    continues it; a last line truncated by a crash is removed. Numbers that are not finite become
    null, so that every line is valid JSON.

    Args:
        folder: created if necessary.
        name: of the two files, without suffix.

    Attributes:
        rows: all rows, oldest first.

    Raises:
        ValueError: an existing file has a damaged line that is not its last.
        FileExistsError: a CSV file of that name exists without a log.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = "log") -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.jsonl, self.csv = self.folder / f"{name}.jsonl", self.folder / f"{name}.csv"
        self.rows: list[Row] = []
        if self.jsonl.exists():
            self.rows, intact = _read(self.jsonl)
            _truncate(self.jsonl, intact)
            self._write_csv()
        elif self.csv.exists():
            raise FileExistsError(f"{self.csv} exists without {self.jsonl.name}; move it away")

    @property
    def columns(self) -> list[str]:
        """All names that occur in rows, in order of first occurrence."""
        return list(dict.fromkeys(key for row in self.rows for key in row))

    def append(self, row: Row) -> None:
        """Add one row."""
        row = {key: _json_value(value) for key, value in row.items()}
        line, columns = _json_line(row), self.columns
        _append(self.jsonl, line)
        self.rows.append(row)
        if self.columns == columns and self.csv.exists():
            _append(self.csv, _csv_text([row], columns))
        else:
            self._write_csv()

    def drop(self, condition: Callable[[Row], bool]) -> None:
        """Remove the rows for which the condition holds."""
        kept = [row for row in self.rows if not condition(row)]
        if len(kept) < len(self.rows):
            self.rows = kept
            write_atomically(self.jsonl, b"".join(map(_json_line, kept)), overwrite=True)
            self._write_csv()

    def _write_csv(self) -> None:
        header = dict(zip(self.columns, self.columns, strict=True))
        text = _csv_text([header, *self.rows] if header else [], self.columns)
        write_atomically(self.csv, text, overwrite=True)


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_line(row: Row) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode()


def _csv_text(rows: list[Row], columns: list[str]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _read(path: Path) -> tuple[list[Row], int]:
    """All complete rows, and the number of bytes of their lines."""
    rows: list[Row] = []
    intact = 0
    content = path.read_bytes()
    for line in io.BytesIO(content):
        row = _parse(line)
        if row is None and intact + len(line) < len(content):
            raise ValueError(f"{path}: line {len(rows) + 1} is damaged; remove or repair the log")
        if row is None:
            break
        rows.append(row)
        intact += len(line)
    return rows, intact


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _truncate(path: Path, size: int) -> None:
    if path.stat().st_size > size:
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())


def _append(path: Path, data: bytes) -> None:
    with naming(path), path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
