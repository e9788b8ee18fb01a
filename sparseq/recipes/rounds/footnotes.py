"""Footnotes of the table of rounds: which pruned layers are dense and why, and what diverged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

SHOWN = 8


def dense_notes(rounds: Sequence[Mapping[str, str]]) -> list[str]:
    """A line per layer that stayed dense, with its rounds and the reason in the last of them.

    Args:
        rounds: for each round, path -> reason, of the layers that are dense though pruned.
    """
    layers = dict.fromkeys(path for reasons in rounds for path in reasons)
    lines = []
    for path in layers:
        dense = [number for number, reasons in enumerate(rounds) if path in reasons]
        where = f"round{'s' * (len(dense) > 1)} {spans(dense)}"
        lines.append(f"{path or 'the model'} is dense in {where}: {rounds[dense[-1]][path]}")
    hidden = len(lines) - SHOWN
    return lines if hidden <= 1 else [*lines[:SHOWN], f"and so are {hidden} other layers"]


def diverged_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per round, given by its row in the log, whose training diverged."""
    return [
        f"the training of round {row['round']} diverged: {row['diverged']}"
        for row in rows
        if row.get("diverged")
    ]


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers in few words: 1-3, 5."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
