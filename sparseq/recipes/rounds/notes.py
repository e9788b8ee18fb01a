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


@contextmanager
def dense_reasons() -> Iterator[list[str]]:
    """What `compress` logs inside the block about layers that stay dense, whoever else logs it."""
    lines: list[str] = []
    level, before = LOGGER.level, LOGGER.getEffectiveLevel()

    def collect(record: logging.LogRecord) -> bool:
        if "dense" in record.getMessage():
            lines.append(record.getMessage().removeprefix("compress: "))
        return record.levelno >= before  # the others get what they would have got

    LOGGER.addFilter(collect)
    LOGGER.setLevel(min(logging.INFO, before))
    try:
        yield lines
    finally:
        LOGGER.removeFilter(collect)
        LOGGER.setLevel(level)


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
