"""How much work drawing a graph may be: a name of a few letters can ask for any amount of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sparseq.errors import require

MOST_WORK = 2**40  # bytes for any one graph: minutes


@dataclass
class Allowance:
    """The work that is left for all graphs drawn inside a block.

    Attributes:
        work: bytes of memory that drawing may still write.
        argument: what raises the limit, for the error.
        drawn: what was drawn inside the block, so that no graph is drawn twice.
    """

    work: int
    argument: str
    drawn: dict[Hashable, Any] = field(default_factory=dict)


# ambient, as builders of models take no such argument
_ALLOWANCE: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


@contextmanager
def drawing_limit(work: int, argument: str) -> Iterator[None]:
    """Inside the block, drawing writes at most `work` bytes in total, and each graph once."""
    token = _ALLOWANCE.set(Allowance(work, argument))
    try:
        yield
    finally:
        _ALLOWANCE.reset(token)


def spend(graph: str, work: int) -> None:
    """ValueError if drawing a graph writes more bytes than are left (about `work`)."""
    allowance = _ALLOWANCE.get()
    most = MOST_WORK if allowance is None else min(MOST_WORK, allowance.work)
    rule = f"must be drawn by writing at most {most:,} bytes"
    remedy = "" if allowance is None else f" ({allowance.argument} raises the limit)"
    require(work <= most, "graph", graph, rule + remedy, f"a graph that needs about {work:,}")
    if allowance is not None:
        allowance.work -= work


def drawn_before() -> dict[Hashable, Any]:
    """What was drawn in the innermost block of `drawing_limit`; a new dict outside of any."""
    allowance = _ALLOWANCE.get()
    return {} if allowance is None else allowance.drawn
