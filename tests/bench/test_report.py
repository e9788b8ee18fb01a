"""The tables and the figure made of kept rows, and what the whole-network benchmark measures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.baselines import BEST
from bench.break_even_cases import DENSITIES
from bench.figure import can_be_drawn, roofline, useful
from bench.report import fill, machines_of, report
from bench.results import save_rows
from bench.suites.pipeline import TimedStep, csr_call, lenets
from bench.tables import notes, speed
from bench.tables.console import side_by_side
from bench.tables.markdown import Lookup
from tests.source_tree import ROOT

ABOUT = {"cpu": "a CPU", "cores": 2, "isa": "avx512", "torch": "2", "commit": "abc", "date": "now"}


def layer_row(threads, ratio, **case):
    return {
        "suite": "layers",
        "subject": "SparseLinear",
        "case": "2048x2048",
        "step": "forward",
        "batch": 64,
        "density": 0.05,
        "baseline": "nn.Linear fp32",
        "threads": threads,
        "ours_us": 2.0,
        "baseline_us": 2 * ratio,
        "ratio": ratio,
        "others": 0.0,
        **ABOUT,
        **case,
    }


def headline_pair(threads, called, best, **case):
    """The two rows of a headline case, against the call users make and the best form."""
    rate = {"gflops": 30.0, "peak_gflops": 120.0, "percent_of_peak": 25.0}
    both = {**rate, "headline": True, **case}
    rows = [layer_row(threads, called, **both), layer_row(threads, best, baseline=BEST, **both)]
    return [{"machine": "cpu-120gflops", **row} for row in rows]


def sweep_row(threads, subject="Linear", batch=512):
    times = [1e3 * density for density in DENSITIES]
    return {
        "suite": "sweep",
        "subject": subject,
        "case": "2048x2048",
        "step": "forward",
        "batch": batch,
        "weights": 2048**2,
        "threads": threads,
        "densities": DENSITIES,
        "ours_us": times,
        "baseline_us": [400.0] * len(times),
        "ratios": [400 / time for time in times],
        **ABOUT,
    }


def peak_row(threads):
    return {"suite": "peak", "subject": "fp32 FMA", "threads": threads, "gflops": 9e9, **ABOUT}


def test_a_table_goes_between_its_markers_again_and_again():
    text = "a\n<!-- results:x -->\nb"
    once = fill(text, "x", "one")
    assert once == "a\n<!-- results:x -->\none\n<!-- /results:x -->\nb"
    assert fill(once, "x", "two\n") == once.replace("one", "two")
    with pytest.raises(ValueError, match="results:y"):
        fill(text, "y", "one")


def test_a_cell_holds_one_and_two_threads():
    rows = [layer_row(1, 7.123), layer_row(2, 12.34), layer_row(1, 3.0, batch=512)]
    found = Lookup(rows)
    case = {"subject": "SparseLinear", "batch": 64}
    assert found.cell(case) == "7.12 / 12.3"
    assert found.cell({"batch": 512}) == "3.00 / -"
    assert found.cell({"batch": 1}) == "-"


def test_a_line_has_both_ratios_and_the_share_of_the_peak():
    rows = [*headline_pair(1, 7.1, 3.05), *headline_pair(2, 6.9, 3.0, percent_of_peak=20.0)]
    text = speed.machine_section("cpu-120gflops", rows)
    for words in ("**cpu-120gflops** (a CPU, 2 cores, avx512)", "torch 2, commit abc", "120 on 1"):
        assert words in text
    line = "| 64 | 5 % | 7.10 / 6.90 | 3.05 / 3.00 | 25.0 / 20.0 |"
    assert f"| SparseLinear | 2048x2048 | forward {line}" in text


@pytest.mark.parametrize(
    "rows",
    [
        [layer_row(1, 7.1)],  # of before the best dense form was a baseline
        headline_pair(1, 7.1, 3.0)[:1],
        [{**row, "others": 0.5} for row in headline_pair(1, 7.1, 3.0)],
        [{**row, "headline": False} for row in headline_pair(1, 7.1, 3.0)],
        [peak_row(1)],
    ],
)
def test_no_ratio_stands_without_the_other(rows):
    text = speed.machine_section("a-machine", rows)
    assert "bench/results/a-machine/" in text
    assert "7.1" not in text


def test_a_thread_without_both_baselines_is_left_out():
    rows = [*headline_pair(1, 7.1, 3.0), *headline_pair(2, 6.9, 2.9)[:1]]
    assert "| 7.10 / - | 3.00 / - | 25.0 / - |" in speed.machine_section("a-machine", rows)


def test_every_machine_has_its_part_of_the_section():
    machines = {"first": headline_pair(1, 2.0, 1.5), "second": [layer_row(1, 9.9)]}
    text = speed.speed_section(machines, {})
    assert (
        text.index("**first**") < text.index("| 2.00 / - | 1.50 / - |") < text.index("**second**")
    )
    assert "9.9" not in text
    assert "16 real products" in text


@pytest.mark.parametrize("drawn", [False, True])
def test_a_report_of_one_machine(tmp_path, drawn):
    large = {"batch": 512, "ours_us": 1e4, "baseline_us": 4e4} if drawn else {}
    rows = headline_pair(1, 4.0, 2.0, **large)
    save_rows(rows, tmp_path / "results")
    assert list(machines_of(tmp_path / "results")) == ["cpu-120gflops"]
    for name in ("README.md", "NOTES.md"):
        text = (ROOT / ("bench" if name == "NOTES.md" else "") / name).read_text()
        (tmp_path / name).write_text(text)
    paths = (tmp_path / "README.md", tmp_path / "NOTES.md")
    report(tmp_path / "results", "another", *paths)
    assert paths[1].read_text() == (ROOT / "bench" / "NOTES.md").read_text()
    text = paths[0].read_text()
    assert "| 4.00 / - | 2.00 / - | 25.0 / - |" in text
    assert ("](results/cpu-120gflops/roofline.png)" in text) is drawn
    report(tmp_path / "results", "cpu-120gflops", *paths)
    assert paths[1].read_text() != (ROOT / "bench" / "NOTES.md").read_text()


def test_a_suite_has_a_line_per_case_in_the_terminal():
    (line,) = side_by_side(headline_pair(1, 7.1, 3.05))
    assert (line["x called"], line["x best dense"]) == ("7.10", "3.05")
    assert line["percent_of_peak"] == 25.0


@pytest.mark.parametrize("name", notes.NOTES)
def test_every_table_of_the_notes_can_be_made(name):
    rows = [layer_row(1, 2.0), layer_row(1, 2.0, suite=name), sweep_row(1), peak_row(1)]
    rows += [{**sweep_row(threads, "Conv2d 3x3", 8), "positions": 64} for threads in (1, 2)]
    rows += [{"suite": "memory", "case": "a", "density": 0.1, "fraction_of_dense": 0.2, **ABOUT}]
    parts = ("data", "forward", "backward", "optimizer", "step")
    training = {"suite": "training", "case": "dense", "batch": 4, "threads": 1, "step_ratio": 1.0}
    rows.append({**training, **{f"{part}_us": 1.0 for part in parts}, **ABOUT})
    if name in ("training", "memory"):
        del rows[1]
    lines = notes.NOTES[name](rows).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert len(lines) > 2


def test_break_even_densities_stand_by_size_and_map():
    rows = [sweep_row(1), sweep_row(2)]
    rows += [{**row, "subject": "Conv2d 3x3", "positions": 64} for row in rows]
    assert notes.thresholds_table(rows).splitlines()[2:] == [
        "| Linear | forward | 4,194,304 | 40% / 40% |"
    ]
    assert notes.thresholds_of_convolutions(rows).splitlines()[2:] == [
        "| Conv2d 3x3 | forward | 8x8 | 4,194,304 | 40% / 40% |"
    ]


def test_the_figure_has_a_panel_per_number_of_threads():
    rows = [row for threads in (1, 2) for row in (sweep_row(threads), peak_row(threads))]
    assert can_be_drawn(rows)
    assert not can_be_drawn([peak_row(1), peak_row(2)])
    figure = roofline(rows)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["1 thread", "2 threads"]
    assert useful(0.5, 512, 1e3) == pytest.approx(2 * 0.5 * 2048**2 * 512 / 1e-3 / 1e9)


def test_a_timed_step_trains_and_splits_the_time():
    networks = lenets()
    kinds = [[type(layer).__name__ for layer in network] for network in networks.values()]
    assert [sum(kind.startswith(("Sparse", "Expander")) for kind in names) for names in kinds] == [
        0,
        3,
        2,
    ]
    step = TimedStep(networks["dense"], 8)
    before = step.model[1].weight.detach().clone()
    step.take()
    assert not torch.equal(step.model[1].weight, before)
    times = step.medians()
    assert times["step_us"] == pytest.approx(
        sum(times[f"{part}_us"] for part in ("data", "forward", "backward", "optimizer")), abs=0.05
    )


def test_the_csr_network_computes_the_same():
    dense, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(4, 6)
    torch.testing.assert_close(csr_call(dense, x, torch.ones(4, 3), "forward")(), dense(x))
    grads = csr_call(dense, x, torch.ones(4, 3), "training")()
    assert grads[0].shape == x.shape
