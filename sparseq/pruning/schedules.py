"""Schedules: the density after each pruning of a run."""

from __future__ import annotations

from collections.abc import Callable

from sparseq.errors import check_fraction, require
from sparseq.registry import Registry

SCHEDULES: Registry[Callable[..., list[float]]] = Registry("schedule")


@SCHEDULES.register("geometric")
def geometric(rounds: int, rate: float = 0.2, start: float = 1.0) -> list[float]:
    """density_i = start (1 - rate)^i, i = 1..rounds: each pruning removes the fraction `rate`.

    Args:
        rounds: number of prunings, at least 1.
        rate: in [0, 1).
        start: density before the first pruning, in (0, 1].

    Returns:
        `rounds` densities, decreasing; the unpruned `start` is not included.

    Raises:
        ValueError: an argument outside its range.

    Source: Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", section 2.
    """
    require(rounds >= 1, "geometric", "rounds", "must be at least 1", rounds)
    require(0 <= rate < 1, "geometric", "rate", "must lie in [0, 1)", rate)
    check_fraction("geometric", "start", start)
    return [start * (1 - rate) ** i for i in range(1, rounds + 1)]


@SCHEDULES.register("one_shot")
def one_shot(density: float) -> list[float]:
    """A single pruning to `density`, in (0, 1]; ValueError otherwise."""
    check_fraction("one_shot", "density", density)
    return [float(density)]
