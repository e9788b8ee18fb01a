"""Wall time of calls; compared calls are interleaved, so that drift affects all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Work = Callable[[], Any]

WARM_UP = 2
FEWEST_TURNS, MOST_TURNS = 3, 50
CPU = torch.device("cpu")


def seconds_per_call(work: Work, calls: int = 1, device: torch.device = CPU) -> float:
    """Mean wall time of `calls` consecutive calls, in seconds; waits for the device to finish."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    _wait(device)
    return (time.perf_counter() - start) / calls


def median_ms(works: Sequence[Work], device: torch.device = CPU, repeats: int = 20) -> list[float]:
    """Median milliseconds of each of several pieces of work, interleaved, after a warm-up."""
    samples: list[list[float]] = [[] for _ in works]
    for repeat in range(WARM_UP + repeats):
        for work, times in zip(works, samples, strict=True):
            seconds = seconds_per_call(work, device=device)
            if repeat >= WARM_UP:
                times.append(1e3 * seconds)
    return [statistics.median(times) for times in samples]


def quick_ms(works: Sequence[Work], device: torch.device, seconds: float) -> list[float]:
    """Median milliseconds as by `median_ms`, with no more repeats than a decision needs.

    The turns end when so many seconds are spent, or when one piece of work was faster in each of
    its turns than all others in theirs; not before three turns.
    """
    for work in works:
        seconds_per_call(work, device=device)
    samples: list[list[float]] = [[] for _ in works]
    while len(samples[0]) < MOST_TURNS and not _are_settled(samples, seconds):
        for work, times in zip(works, samples, strict=True):
            times.append(seconds_per_call(work, device=device))
    return [1e3 * statistics.median(times) for times in samples]


def _are_settled(samples: Sequence[Sequence[float]], seconds: float) -> bool:
    """Whether further turns would hardly change which work is the fastest."""
    if len(samples[0]) < FEWEST_TURNS:
        return False
    spent = sum(map(sum, samples))
    fastest = min(samples, key=max)
    is_clear = all(max(fastest) < min(times) for times in samples if times is not fastest)
    return spent >= seconds or (is_clear and spent >= seconds / 4)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
