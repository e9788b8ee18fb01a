"""The comparison of two checkouts: its arithmetic, what it covers, and a run against itself."""

from __future__ import annotations

import pytest

from bench.checkout_cases import calls
from bench.compare_checkouts import by_operator, geometric_mean, main, ratios_of
from tests.source_tree import ROOT


def test_a_ratio_is_the_median_of_old_over_new():
    old, new = {"a": [2.0, 9.0, 6.0], "only old": [1.0]}, {"a": [1.0, 1.0, 2.0], "only new": [1.0]}
    assert ratios_of(old, new) == {"a": 3.0}
    assert geometric_mean([2.0, 0.5, 8.0]) == pytest.approx(2.0)
    assert by_operator({"spmm b1": 1.0, "spmm b2": 2.0, "sddmm": 3.0}) == {
        "spmm": {"spmm b1": 1.0, "spmm b2": 2.0},
        "sddmm": {"sddmm": 3.0},
    }


def test_every_operator_is_compared():
    timed = {name.split()[0] for name, _ in calls()}
    assert {path.stem for path in (ROOT / "bench/ops").glob("[!_]*.py")} <= timed


@pytest.mark.slow
def test_a_checkout_against_itself(capsys):
    case = "max_pool 256ch 8x8"
    main([str(ROOT), str(ROOT), "--rounds", "1", "--threads", "1", "--seconds", "0", "-k", case])
    out = capsys.readouterr().out
    assert "max_pool" in out
    assert "cases below 0.9" in out
