from __future__ import annotations

import pytest

from sparseq import timing
from sparseq.timing import median_ms, seconds_per_call


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
