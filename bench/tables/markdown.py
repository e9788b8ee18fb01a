"""Rows found by what they are of, and tables in Markdown; a cell is on one thread / on two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.results import Row
from bench.timing import QUIET

THREADS = (1, 2)
NONE = "-"


@dataclass(frozen=True)
class Lookup:
    """Rows by what they are of."""

    rows: Sequence[Row]

    def find(self, **case: Any) -> list[Row]:
        """The rows that have these values."""
        return [
            row for row in self.rows if all(row.get(name) == value for name, value in case.items())
        ]

    def cell(self, case: Row, column: str = "ratio") -> str:
        """A column of the case on one and on two threads, as "2.6 / 2.5"."""
        found = [
            [row for row in self.find(**case, threads=count) if row.get(column) is not None]
            for count in THREADS
        ]
        if not any(found):
            return NONE
        return " / ".join(number(rows[-1][column]) if rows else NONE for rows in found)


def credible(row: Row) -> bool:
    """Undisturbed; a row that does not say so counts where a core was left for the others."""
    return row.get("others", 0.0 if row["threads"] == 1 else 1.0) < QUIET


def number(ratio: float) -> str:
    """Two significant digits, three from 10 on."""
    return f"{ratio:.0f}" if ratio >= 99.5 else f"{ratio:.1f}" if ratio >= 9.95 else f"{ratio:.2f}"


def markdown(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; columns of numbers to the right, the first one to the left."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, rule, *lines))
