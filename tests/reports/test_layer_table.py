"""The table of layers: it fits 80 columns, and shows each reason once."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sparseq.reports.layer_table import LayerRow, layer_table, short_count

TOTAL = LayerRow("total", "Sequential", 0.07, 50_000_000, 3_500_000, 9_999_999, 12.5, 3.25, "")


def row(name, kind="SparseLinear", kernel="spmm compiled", reason=""):
    return LayerRow(name, kind, 0.05, 4_194_304, 209_715, 2_525_168, 1.25, 0.125, kernel, reason)


def shown(rows):
    console = Console(file=io.StringIO(), width=80)
    console.print(layer_table(rows, TOTAL, "batch 1, cpu"))
    return [line.strip() for line in console.file.getvalue().splitlines()]


def test_a_layer_is_one_line_of_80_columns():
    lines = shown([row("features.10"), row("fc1"), row("out", "Linear", "torch")])
    assert max(map(len, lines)) < 80
    cells = [line.split() for line in lines if line.startswith(("features.10", "out"))]
    numbers = ["5.00", "210k", "2.53M", "1.250", "0.125", "10.00"]
    assert cells[0] == ["features.10", "SparseLinear", *numbers, "spmm", "compiled"]
    assert cells[1] == ["out", "Linear", *numbers, "torch"]


def test_long_names_wrap_and_numbers_do_not():
    name = "encoder.layers.3.attention.out_proj"
    lines = shown([row(name, "SparseQLinear", "sparse_hamilton compiled")])
    assert max(map(len, lines)) < 80
    assert name in "".join(line.split(" ")[0] for line in lines)
    assert sum("0.125" in line and "2.53M" in line for line in lines) == 1


def test_each_reason_is_shown_once_with_its_layers():
    small = "too small for sparse"
    lines = shown([row("a", reason=small), row("b"), row("c", reason=small), row("d", reason="x")])
    assert [line for line in lines if ":" in line] == [f"a, c: {small}", "d: x"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.0k"),
        (99_960, "100k"),
        (999_499, "999k"),
        (999_500, "1.00M"),
        (1_234_567, "1.23M"),
        (10**12, "1.00T"),
        (10**16, "10000T"),
    ],
)
def test_counts_are_short(number, text):
    assert short_count(number) == text
