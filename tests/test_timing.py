from __future__ import annotations

import pytest

from sparseq import timing
from sparseq.timing import CPU, median_ms, quick_ms, seconds_per_call


def test_times_are_medians_of_interleaved_samples(monkeypatch):
    order = []
    ticks = iter([0, 1] * 4 + [0, 0.005, 0, 0.03, 0, 0.001, 0, 0.01, 0, 0.003, 0, 0.02])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))
    works = [lambda: order.append("dense"), lambda: order.append("sparse")]
    assert median_ms(works, repeats=3) == pytest.approx([3, 20])
    assert order == ["dense", "sparse"] * 5


def test_a_turn_of_several_calls_gives_their_mean(monkeypatch):
    calls, ticks = [], iter([1, 4])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))
    assert seconds_per_call(lambda: calls.append(0), 6) == pytest.approx(0.5)
    assert len(calls) == 6


class Ticks:
    """A clock that runs by what each piece of work says it takes."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def work(self, name, *seconds):
        """Work that takes each of these times in turn, then the last one again."""
        left = list(seconds)

        def run():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_quick_times_are_interleaved_medians_after_a_warm_up(monkeypatch):
    ticks = Ticks(monkeypatch)
    works = [ticks.work("a", 9, 1, 5, 2), ticks.work("b", 9, 3, 3, 4)]
    assert quick_ms(works, CPU, 1) == pytest.approx([2000, 3000])
    assert ticks.calls == ["a", "b"] * 4


@pytest.mark.parametrize(
    ("one", "other", "turns"),
    [(1e-2, 1e-1, 3), (1e-2, 1.1e-2, 12), (1e-3, 1e-3, 50), (1e-4, 1e-2, 7)],
    ids=["clear", "clear but for less than a quarter of the time", "equal", "short"],
)
def test_quick_times_end_as_soon_as_a_decision_can_be_made(monkeypatch, one, other, turns):
    ticks = Ticks(monkeypatch)
    quick_ms([ticks.work("a", one), ticks.work("b", other)], CPU, 1 if turns == 12 else 0.25)
    assert ticks.calls.count("a") == 1 + turns
