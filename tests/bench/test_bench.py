"""The benchmark's own machinery: turns, medians, gates and the rows that are kept."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from bench import machine, results, timing
from bench.baselines import (
    BEST,
    Form,
    agrees,
    cat_then_linear,
    dw_sides,
    dx_sides,
    linear_sides,
    network_sides,
    onednn_linear,
    onednn_twin,
    torch_csr,
)
from bench.cases import fits, random_mask, useful_flop, useful_flop_of
from bench.conftest import race_rows, rates
from bench.peak import peak_gflops
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


def test_a_call_under_two_names_runs_once():
    same, order = lambda: None, []
    race = Race({"ours": lambda: None, "called": same, "best": same})
    race.turn = order.append
    race.run(1)
    assert order == ["called", "ours"]
    race.samples = {"ours": [1.0], "called": [3.0]}
    assert race.ratios() == {"called": 3.0, "best": 3.0}


def test_rounds_fit_the_budget():
    race = Race({"ours": lambda: None, "other": lambda: None})
    assert race.rounds(budget=0, least=7) == 7
    assert race.rounds(budget=60, least=7) == timing.MOST_ROUNDS
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


def plain(y):
    return y.to_dense() if y.is_mkldnn else y


def test_every_dense_form_computes_the_same():
    x, weight, bias, dy = (torch.randn(*shape) for shape in ((6, 20), (12, 20), (12,), (6, 12)))
    want = torch.nn.functional.linear(x, weight, bias)
    calls = {**linear_sides("as called", x, weight, bias), **onednn_linear(x, weight, bias)}
    assert len(calls) == 4
    for call in calls.values():
        torch.testing.assert_close(plain(call()), want)
    for sides, exact in ((dx_sides(dy, weight), dy @ weight), (dw_sides(dy, x), dy.t() @ x)):
        assert list(sides) == ["dense fp32", BEST]
        for call in sides.values():
            torch.testing.assert_close(plain(call()), exact)


def test_a_network_in_onednn_computes_and_trains_the_same():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    x = torch.randn(2, 3, 4, 4)
    want = model(x)
    for call in network_sides(model, x).values():
        torch.testing.assert_close(plain(call()), want)
    for net in (model, onednn_twin(model)):
        grads = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
        if net is model:
            exact = grads
    torch.testing.assert_close(grads, exact)


def test_the_best_form_is_never_slower_than_the_call():
    called, best = Form("F.linear", lambda: None), Form("oneDNN", lambda: None)
    sides = {"ours": lambda: None, "nn.Linear fp32": called, BEST: best}
    race = Race(sides)
    race.samples = {"ours": [1.0], "nn.Linear fp32": [4.0], BEST: [5.0]}
    rows = {row["baseline"]: row for row in race_rows(race, sides)}
    assert (rows[BEST]["ratio"], rows[BEST]["form"]) == (4.0, "F.linear")
    race.samples[BEST] = [3.0]
    rows = {row["baseline"]: row for row in race_rows(race, sides)}
    assert (rows[BEST]["ratio"], rows[BEST]["form"]) == (3.0, "oneDNN")
    assert rows["nn.Linear fp32"]["ratio"] == 4.0


def test_useful_work_counts_kept_weights_alone():
    assert useful_flop(10, 3) == 60
    assert useful_flop(10, 3, "training") == 180
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 3))
    nn.init.ones_(model[0].weight)
    nn.init.ones_(model[2].weight)
    with torch.no_grad():
        model[2].weight[0] = 0
    conv, linear = 2 * 18 * 16 * 5, 2 * 64 * 5
    assert useful_flop_of(model, torch.ones(5, 1, 4, 4)) == conv + linear
    both = useful_flop_of(model, torch.ones(5, 1, 4, 4), "training")
    assert both == 2 * conv + 3 * linear  # images need no gradient


def test_a_rate_is_a_share_of_the_peak():
    assert rates(None, 1.0, 100.0) == {}
    assert rates(10**9, 0.5, None) == {"gflops": 2.0}
    assert rates(10**9, 0.5, 8.0) == {"gflops": 2.0, "peak_gflops": 8.0, "percent_of_peak": 25.0}
    peak = peak_gflops(1)
    assert peak is None or peak > 1


INTEL = {"cpu family": "6", "model": "207", "vendor_id": "GenuineIntel"}


def test_a_machine_is_named_by_what_decides_its_speed():
    name = machine.cpu_name(INTEL, "Intel(R) Xeon(R) Processor", "avx512", True)
    assert name == "intel-xeon-family-6-model-207-avx512-amx"
    zen = {"cpu family": "26", "model": "2"}
    name = machine.cpu_name(zen, "AMD EPYC 9655 96-Core Processor", "avx512", False)
    assert name == "amd-epyc-family-26-model-2-avx512"
    assert machine.cpu_name({}, "Apple M3", "scalar", False) == "apple-m3-scalar"


def test_noise_of_the_peak_makes_no_new_machine():
    known = ["cpu-avx512-250gflops", "cpu-avx512-117gflops", "cpu-250gflops", "other"]
    assert machine.with_peak("cpu-avx512", 220.0, known) == "cpu-avx512-250gflops"
    assert machine.with_peak("cpu-avx512", 120.9, known) == "cpu-avx512-117gflops"
    assert machine.with_peak("cpu-avx512", 160.4, known) == "cpu-avx512-160gflops"
    assert machine.with_peak("cpu-avx512", None, known) == "cpu-avx512"
    about = machine.machine()
    assert about["machine"] == machine.machine()["machine"]
    assert about["isa"] in about["machine"] or about["isa"] != "avx512"


def test_a_headline_mark_describes_cases():
    case = {"size": (8, 4), "batch": 64, "step": "forward"}
    assert fits({}, case)
    assert fits({"size": (8, 4), "batch": [1, 64]}, case)
    assert not fits({"size": (8, 4), "batch": [1, 16]}, case)
    with pytest.raises(ValueError, match=r"no parameter \['depth'\]"):
        fits({"depth": 1}, case)


def collected(*flags):
    command = [sys.executable, "-m", "pytest", *flags, "--collect-only", "-qq"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"^(bench/\S+\.py): (\d+)$", done.stdout, flags=re.M)
    return {name: int(count) for name, count in counts}


def test_the_headline_set_has_cases_of_every_suite():
    headline, full = collected("--benchmark"), collected("--benchmark-full")
    assert headline.keys() == full.keys()
    assert {f"bench/ops/{path.name}" for path in (ROOT / "bench/ops").glob("[!_]*.py")} < set(full)
    assert sum(headline.values()) < sum(full.values()) / 5


def test_rows_replace_their_predecessors_alone(tmp_path):
    def row(density, ratio):
        return {"suite": "spmm", "density": density, "ratio": ratio, **machine.machine()}

    results.save_rows([row(0.1, 1), row(0.2, 2)], tmp_path)
    (path,) = results.save_rows([row(0.2, 3)], tmp_path)
    assert [found["ratio"] for found in json.loads(path.read_text())] == [1, 3]
    with path.with_suffix(".csv").open() as file:
        assert [found["ratio"] for found in csv.DictReader(file)] == ["1", "3"]
    assert path.parent.name == machine.machine()["machine"]


def test_benchmark_flag_runs_bench_alone(tmp_path):
    """One small case through `pytest --benchmark`: ratios are printed and kept."""
    case = "test_spmm and forward and 1024x1024 and batch-16 and density-0.1 and threads-1"
    command = [sys.executable, "-m", "pytest", "--benchmark", f"--results={tmp_path}", "-k", case]
    command += ["--benchmark-max-time=0.001", "--benchmark-min-rounds=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_spmm[threads-1-forward-density-0.1-batch-16-1024x1024] PASSED" in done.stdout
    for words in ("x called", "x best dense", "% of peak", "fp32 FMA peak in GFLOP/s"):
        assert words in done.stdout
    (path,) = tmp_path.glob("*/spmm.json")
    rows = json.loads(path.read_text())
    assert {row["baseline"] for row in rows} == {"F.linear fp32", BEST}
    assert all(row["headline"] and row["form"] for row in rows)
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
