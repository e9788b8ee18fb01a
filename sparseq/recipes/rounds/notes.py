"""Remarks below the table of a network: why it is dense in some rounds, and where it diverged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from sparseq.nn.sparse.patterned import PatternedLayer

LOGGER = logging.getLogger("sparseq")
SHOWN = 3  # layers of which the reason is given


class _Reasons(logging.Handler):
    """Collects what `compress` says about layers that stay dense."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        if "dense" in record.getMessage():
            self.lines.append(record.getMessage().removeprefix("compress: "))


@contextmanager
def dense_reasons() -> Iterator[list[str]]:
    """The reasons that `compress` logs inside the block, which other handlers get as usual."""
    handler, level = _Reasons(), LOGGER.level
    others = {other: other.level for other in LOGGER.handlers}
    for other in others:  # they rely on the logger's level
        other.setLevel(max(other.level, LOGGER.getEffectiveLevel()))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(min(logging.INFO, LOGGER.getEffectiveLevel()))
    try:
        yield handler.lines
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        for other, previous in others.items():
            other.setLevel(previous)


def remark_on(model: nn.Module, density: float, reasons: Sequence[str]) -> dict[str, str]:
    """{"dense": why a pruned network has no sparse layer}; {} if it has one, or is not pruned."""
    if density == 1 or any(isinstance(module, PatternedLayer) for module in model.modules()):
        return {}
    more = f"; {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return {"dense": "; ".join(reasons[:SHOWN]) + more}


def notes_on(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The remarks below the table of one network, from the rows of its rounds."""
    dense = [row for row in rows if row.get("dense")]
    notes = []
    if dense:
        rounds = _numbers([row["round"] for row in dense])
        last = dense[-1]
        notes.append(f"dense in {rounds}: {last['dense']} (in round {last['round']})")
    notes += [
        f"diverged in round {row['round']}: {row['diverged']}"
        for row in rows
        if row.get("diverged")
    ]
    return notes


def _numbers(rounds: Sequence[int]) -> str:
    """ "round 3", "rounds 1 to 4" or "rounds 1, 2, 5"."""
    if len(rounds) == 1:
        return f"round {rounds[0]}"
    if list(rounds) == list(range(rounds[0], rounds[-1] + 1)):
        return f"rounds {rounds[0]} to {rounds[-1]}"
    return "rounds " + ", ".join(map(str, rounds))
