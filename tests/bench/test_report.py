"""The tables and the figure made of kept rows, and what the whole-network benchmark measures."""

from __future__ import annotations

import pytest
import torch
from bench.pipeline import TimedStep, csr_call, lenets
from bench.sweep import DENSITIES
from torch import nn

from bench import tables
from bench.figure import roofline, useful
from bench.report import fill

ABOUT = {"cpu": "a CPU", "cores": 2, "isa": "avx512", "torch": "2"}


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
    found = tables.Lookup(rows)
    case = {"subject": "SparseLinear", "batch": 64}
    assert found.cell(case) == "7.12 / 12.3"
    assert found.cell({"batch": 512}) == "3.00 / -"
    assert found.cell({"batch": 1}) == "-"


def test_the_speed_section_names_machine_threads_and_baselines(tmp_path):
    text = tables.speed_section([layer_row(1, 7.1), layer_row(2, 6.9)], tmp_path / "a.png")
    for words in ("one thread / two\nthreads", "a CPU (2 cores, avx512", "torch's CSR"):
        assert words in text
    assert "| `SparseLinear` 2048x2048 | forward | 64 | - | - | 7.10 / 6.90 | - |" in text


@pytest.mark.parametrize("name", tables.NOTES)
def test_every_table_of_the_notes_can_be_made(name):
    rows = [layer_row(1, 2.0), layer_row(1, 2.0, suite=name), sweep_row(1), peak_row(1)]
    rows += [{**sweep_row(threads, "Conv2d 3x3", 8), "positions": 64} for threads in (1, 2)]
    rows += [{"suite": "memory", "case": "a", "density": 0.1, "fraction_of_dense": 0.2, **ABOUT}]
    parts = ("data", "forward", "backward", "optimizer", "step")
    training = {"suite": "training", "case": "dense", "batch": 4, "threads": 1, "step_ratio": 1.0}
    rows.append({**training, **{f"{part}_us": 1.0 for part in parts}, **ABOUT})
    if name in ("training", "memory"):
        del rows[1]
    lines = tables.NOTES[name](rows).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert len(lines) > 2


def test_break_even_densities_stand_by_size_and_map():
    rows = [sweep_row(1), sweep_row(2)]
    rows += [{**row, "subject": "Conv2d 3x3", "positions": 64} for row in rows]
    assert tables.thresholds_table(rows).splitlines()[2:] == [
        "| Linear | forward | 4,194,304 | 40% / 40% |"
    ]
    assert tables.thresholds_of_convolutions(rows).splitlines()[2:] == [
        "| Conv2d 3x3 | forward | 8x8 | 4,194,304 | 40% / 40% |"
    ]


def test_the_figure_has_a_panel_per_number_of_threads():
    rows = [row for threads in (1, 2) for row in (sweep_row(threads), peak_row(threads))]
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
