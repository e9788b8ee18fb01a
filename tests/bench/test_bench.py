"""The benchmark's own machinery: turns, medians, gates and the rows that are kept."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest
import torch

from bench import results, timing
from bench.baselines import agrees, cat_then_linear, torch_csr
from bench.cases import random_mask
from bench.timing import Race, fastest, threads
from sparseq.ops.hamilton import hamilton_reference
from tests.source_tree import ROOT


def test_sides_take_turns(monkeypatch):
    order = []
    race = Race({"ours": lambda: None, "a": lambda: None, "b": lambda: None})
    monkeypatch.setattr(race, "turn", order.append)
    race.run(2)
    assert order == ["a", "b", "ours", "a", "b", "ours"]


def test_ratio_is_baseline_over_ours():
    race = Race({"ours": lambda: None, "slow": lambda: None})
    race.samples = {"ours": [1.0, 9.0, 2.0], "slow": [6.0, 5.0, 99.0]}
    assert race.median("ours") == 2.0
    assert race.ratios() == {"slow": 3.0}


def test_rounds_fit_the_budget_and_keep_no_trial():
    race = Race({"ours": lambda: None, "other": lambda: None})
    assert race.rounds(budget=0, least=7) == 7
    assert race.samples == {"ours": [], "other": []}


def test_fastest_names_a_form():
    assert (
        fastest(
            {"slow": lambda: torch.randn(400, 400) @ torch.randn(400, 400), "quick": lambda: None}
        )
        == "quick"
    )


def test_threads_are_restored():
    before = torch.get_num_threads()
    with threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_gate_stops_a_wrong_result():
    exact = torch.ones(3, dtype=torch.float64)
    agrees(exact.float() + 1e-6, exact, "right")
    with pytest.raises(AssertionError, match="wrong: relative error"):
        agrees(exact.float() + 1e-3, exact, "wrong")


def test_baselines_compute_what_they_stand_for():
    weight, x, bias = torch.randn(4, 3, 5), torch.randn(2, 20), torch.randn(12)
    want = hamilton_reference(x, weight, bias, "auto")
    torch.testing.assert_close(cat_then_linear(x, weight, bias), want)
    matrix = torch.randn(7, 20) * random_mask(7, 20, 0.3)
    got = torch_csr(x, matrix, torch.ones(7))()
    torch.testing.assert_close(got, x @ matrix.t() + 1)


def test_rows_replace_their_predecessors_alone(tmp_path):
    def row(density, ratio):
        return {"suite": "spmm", "density": density, "ratio": ratio, **results.machine()}

    results.save_rows([row(0.1, 1), row(0.2, 2)], tmp_path)
    (path,) = results.save_rows([row(0.2, 3)], tmp_path)
    assert [found["ratio"] for found in json.loads(path.read_text())] == [1, 3]
    with path.with_suffix(".csv").open() as file:
        assert [found["ratio"] for found in csv.DictReader(file)] == ["1", "3"]
    assert path.parent.name == results.machine()["machine"]


def test_benchmark_flag_runs_bench_alone(tmp_path):
    """One small case through `pytest --benchmark`: ratios are printed and kept."""
    case = "test_spmm and forward and 1024x1024 and batch-16 and density-0.02 and threads-1"
    command = [sys.executable, "-m", "pytest", "--benchmark", f"--results={tmp_path}", "-k", case]
    command += ["--benchmark-max-time=0.001", "--benchmark-min-rounds=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "x torch CSR" in done.stdout
    (path,) = tmp_path.glob("*/spmm.json")
    rows = json.loads(path.read_text())
    assert {row["baseline"] for row in rows} == {"F.linear fp32", "F.linear bf16", "torch CSR"}
    assert all({"machine", "cpu", "isa", "threads", "torch", "commit"} <= set(row) for row in rows)


def test_what_others_do_is_seen(tmp_path, monkeypatch):
    clock = tmp_path / "stat"
    monkeypatch.setattr(timing, "CLOCK", clock)
    assert timing.Others().cores() == 0
    ticks = os.sysconf("SC_CLK_TCK")
    clock.write_text("cpu 0 0 0 5 5 0 0 0 0 0\n")
    others = timing.Others()
    clock.write_text(f"cpu {10**6 * ticks} 0 0 50 50 0 0 0 0 0\n")
    assert others.cores() > 100
    timing.wait_for_quiet(5)  # the clock stands still: nobody is at work
