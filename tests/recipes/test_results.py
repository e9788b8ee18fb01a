"""The text and the columns in which results are printed."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from sparseq.recipes.folder import RunFolder
from sparseq.recipes.results import Level, Results, ratio_text, summary

DENSE = Level("real", 0, 1.0, 888, 888, 1, 0.95, 0.0, 0.94, 0.0, 4000, 0.1, 0.1, 1.0)
SPARSE = replace(DENSE, round=1, density=0.05, size=1000, sparse_ms=0.125, speed_up=0.8)


@pytest.mark.parametrize(
    ("ratio", "text"), [(1.5, "1.50x more"), (1, "1.00x more"), (0.8, "1.25x less")]
)
def test_a_ratio_below_one_is_shown_as_its_inverse(ratio, text):
    assert ratio_text(ratio, "more", "less") == text


def test_a_slower_network_is_called_slower():
    text = summary([DENSE, SPARSE])
    assert "4,000 -> 1,000 bytes (4.00x smaller), 1.25x slower" in text


def test_a_table_fits_80_columns(tmp_path):
    timing = {"batch": 256, "threads": 1, "processor": "CPU"}
    console = Console(file=io.StringIO(), width=80)
    Results(tmp_path, {"model": "m", "data": "d"}, [DENSE, SPARSE], timing).show(console)
    rows = [line.split() for line in console.file.getvalue().splitlines() if "0.80x" in line]
    assert rows == [["1", "5.00", "%", "95.00", "94.00", "1,000", "0.100", "0.125", "0.80x"]]


def test_footnotes_stand_below_their_table_and_survive_the_file(tmp_path):
    timing = {"batch": 256, "threads": 1, "processor": "CPU"}
    notes = {"real": ["out is dense in round 1: [too] slow"], "quaternion": ["hidden"]}
    results = Results(tmp_path, {"model": "m", "data": "d"}, [DENSE, SPARSE], timing, notes)
    console = Console(file=io.StringIO(), width=80)
    results.show(console)
    assert "\n* out is dense in round 1: [too] slow\n" in console.file.getvalue()
    assert "hidden" not in console.file.getvalue()
    with RunFolder(tmp_path / "run", {"a": 1}) as folder:
        results.write(folder)
        assert Results.read(folder.path).notes == notes
        stored = json.loads((folder.path / "results.json").read_text())
        for wrong in ([], {"real": "text"}, {"real": [1]}):
            folder.write_json("results.json", {**stored, "notes": wrong})
            with pytest.raises(ValueError, match="must have lists of lines in 'notes'"):
                Results.read(folder.path)
