"""Interleaved timing: the sides of a comparison take turns, so that drift hits all alike.

A turn calls one side so often that it takes about a millisecond, and records seconds per call. The
reported number is the median over the turns; the ratio is baseline / ours, above 1 = we are faster.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from sparseq.timing import seconds_per_call

TURN_SECONDS = 1e-3
MOST_ROUNDS = 400
CLEARLY_SLOWER = 2.0  # times the quickest form
LONG = 0.05  # seconds of a call from which on one trial tells forms apart
QUIET = 0.1  # cores that others may use before a measurement counts as disturbed
GLANCE = 0.3  # seconds over which to see whether others are at work
CLOCK = Path("/proc/stat")  # of Linux; without it every machine counts as quiet


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch's operators on that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Others:
    """How many cores other processes have kept busy since this was made."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.monotonic(), _busy_seconds(), time.process_time()

    def cores(self) -> float:
        """Mean number of cores; 0 where it cannot be told."""
        busy = _busy_seconds() - self._busy - (time.process_time() - self._own)
        return max(0.0, busy / max(time.monotonic() - self._start, 1e-9))


def _busy_seconds() -> float:
    """CPU seconds of all processes together: user, nice, system, irq, softirq and steal."""
    if not CLOCK.exists():
        return 0.0
    ticks = [int(field) for field in CLOCK.read_text().split(maxsplit=9)[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(patience: float) -> None:
    """Return when others leave the machine alone, or after `patience` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        others = Others()
        time.sleep(GLANCE)
        if others.cores() < QUIET:
            return


class Race:
    """Calls that compute the same thing and take turns; the first named is ours.

    A call that stands under several names runs once a round and counts for all of them.
    """

    def __init__(self, sides: Mapping[str, Callable[[], object]]) -> None:
        self.ours = next(iter(sides))
        self._runs_as = {
            name: next(first for first, other in sides.items() if other is call)
            for name, call in sides.items()
        }
        self.names = list(sides)
        self.sides = {name: sides[name] for name in dict.fromkeys(self._runs_as.values())}
        self.samples: dict[str, list[float]] = {name: [] for name in self.sides}
        self._calls: dict[str, int] = {}
        self._turn_seconds: dict[str, float] = {}
        for name, call in self.sides.items():
            self._calibrate(name, call)

    def _calibrate(self, name: str, call: Callable[[], object]) -> None:
        """Warm the side up, then choose how many calls fill one turn."""
        call()
        once = seconds_per_call(call, 1)
        if once < TURN_SECONDS:
            once = seconds_per_call(call, 5)
        self._calls[name] = max(1, math.ceil(TURN_SECONDS / max(once, 1e-7)))
        self._turn_seconds[name] = once * self._calls[name]

    def turn(self, name: str) -> None:
        """One sample of one side."""
        self.samples[name].append(seconds_per_call(self.sides[name], self._calls[name]))

    def others(self) -> None:
        """One sample of every side but ours."""
        for name in self.sides:
            if name != self.ours:
                self.turn(name)

    def rounds(self, budget: float, least: int) -> int:
        """How many rounds fit into `budget` seconds; at least `least`."""
        fit = int(budget / sum(self._turn_seconds.values()))
        return min(max(least, fit, 1), max(MOST_ROUNDS, least))

    def run(self, rounds: int) -> None:
        """All sides by turns, without pytest."""
        for _ in range(rounds):
            self.others()
            self.turn(self.ours)

    def median(self, name: str) -> float:
        """Median seconds per call of one side."""
        return median(self.samples[self._runs_as[name]])

    def ratios(self) -> dict[str, float]:
        """Baseline -> its median time / ours."""
        ours = self.median(self.ours)
        return {name: self.median(name) / ours for name in self.names if name != self.ours}


def fastest(variants: Mapping[str, Callable[[], object]], trials: int = 3) -> str:
    """Name of the quickest of several forms of one baseline; the race then runs it alone.

    Forms that are clearly slower after the first trial get no other, and there is only one trial
    where the calls are so long that noise weighs little.
    """
    for call in variants.values():
        call()
    best = {name: seconds_per_call(call, 1) for name, call in variants.items()}
    for _ in range(0 if min(best.values()) > LONG else trials - 1):
        limit = CLEARLY_SLOWER * min(best.values())
        for name in [name for name, seconds in best.items() if seconds <= limit]:
            best[name] = min(best[name], seconds_per_call(variants[name], 1))
    return min(best, key=best.__getitem__)
