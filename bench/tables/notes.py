"""The tables of bench/NOTES.md, from all rows of a machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from bench.break_even_sweep import tables as break_even_tables
from bench.results import Row
from bench.tables.markdown import NONE, Lookup, credible, markdown
from sparseq.compression.thresholds import Thresholds


def machines(rows: Sequence[Row]) -> str:
    """What the rows were measured on."""
    columns = ("cpu", "cores", "isa", "torch")
    kinds = dict.fromkeys(tuple(str(row[name]) for name in columns) for row in rows)
    peaks = Lookup(rows).find(suite="peak")
    said = ", ".join(f"{row['gflops']} GFLOP/s on {row['threads']} thread(s)" for row in peaks)
    return f"{markdown(columns, kinds)}\n\nfp32 multiply-adds in registers (bench/peak.py): {said}."


def operator_table(suite: str) -> Callable[[Sequence[Row]], str]:
    """A table of one operator's suite: a line per case, a column per baseline."""
    return lambda rows: _pivot([row for row in Lookup(rows).find(suite=suite) if credible(row)])


def _pivot(rows: Sequence[Row]) -> str:
    rows = [row for row in rows if "baseline" in row]
    found, names = Lookup(rows), ("subject", "case", "step", "batch", "density")
    used = [name for name in names if any(name in row for row in rows)]
    baselines = list(dict.fromkeys(row["baseline"] for row in rows))
    rate = ["% of peak"] if any("percent_of_peak" in row for row in rows) else []
    lines = []
    for values in dict.fromkeys(tuple(row.get(name) for name in used) for row in rows):
        case = dict(zip(used, values, strict=True))
        cells = [found.cell({**case, "baseline": baseline}) for baseline in baselines]
        cells += [found.cell(case, "percent_of_peak") for _ in rate]
        lines.append([*("" if value is None else str(value) for value in values), *cells])
    return markdown([*used, *baselines, *rate], lines)


def layers_table(rows: Sequence[Row]) -> str:
    """What a call costs where there is little to do: microseconds, ours and dense, 784x300."""
    lines, columns = [], ("ours_us", "baseline_us", "ratio")
    found = Lookup([row for row in rows if row["suite"] == "layers" and credible(row)])
    for subject, density in (("QLinear", None), ("SparseLinear", 0.05), ("SparseLinear", 0.02)):
        for batch in (1, 16):
            case = {
                "suite": "layers",
                "subject": subject,
                "case": "784x300",
                "step": "forward",
                "batch": batch,
                "density": density,
                "baseline": "nn.Linear fp32",
            }
            cells = [found.cell(case, column) for column in columns]
            lines.append([subject, "" if density is None else f"{density:.0%}", str(batch), *cells])
    headings = ["layer of 784x300", "density", "batch", "ours (us)", "nn.Linear (us)", "ratio"]
    return markdown(headings, lines)


def thresholds_table(rows: Sequence[Row]) -> str:
    """Break-even densities by kind, step, number of weights and batch, on one and two threads."""
    return _thresholds([row for row in rows if "positions" not in row], ["layer", "step"])


def thresholds_of_convolutions(rows: Sequence[Row]) -> str:
    """The same of convolutions, by map too."""
    return _thresholds([row for row in rows if "positions" in row], ["layer", "step", "map"])


def _thresholds(rows: Sequence[Row], names: list[str]) -> str:
    swept = Lookup(rows).find(suite="sweep")
    batches = sorted({row["batch"] for row in swept})
    lines = [
        [*(kind, step, _side(positions))[: len(names)], *line]
        for kind, steps in break_even_tables(swept).items()
        for step, by_threads in steps.items()
        for positions in dict.fromkeys(at for maps in by_threads.values() for at in maps)
        for line in _limits(
            [
                Thresholds.from_json(maps[positions])
                for maps in by_threads.values()
                if positions in maps
            ],
            batches,
        )
    ]
    return markdown([*names, "weights", *(f"batch {batch}" for batch in batches)], lines)


def _side(positions: str) -> str:
    side = math.isqrt(int(positions))
    return f"{side}x{side}"


def _limits(measured: Sequence[Thresholds], batches: Sequence[int]) -> Iterator[list[str]]:
    """A line per number of weights."""
    for weights in measured[0].weights:
        cells = [
            " / ".join(f"{table.limit(weights, batch):.0%}" for table in measured)
            if batch in measured[0].batches
            else NONE
            for batch in batches
        ]
        yield [f"{weights:,}", *cells]


def training_table(rows: Sequence[Row]) -> str:
    """Where a training step goes: microseconds by part, and the step's ratio to dense."""
    parts = ["data_us", "forward_us", "backward_us", "optimizer_us", "step_us", "step_ratio"]
    found = Lookup(rows)
    lines = []
    for case, batch in dict.fromkeys(
        (row["case"], row["batch"]) for row in found.find(suite="training")
    ):
        at = {"suite": "training", "case": case, "batch": batch}
        lines.append([case, str(batch), *(found.cell(at, part) for part in parts)])
    heads = [part.replace("_us", " (us)").replace("_", " ") for part in parts]
    return markdown(["network", "batch", *heads], lines)


def memory_table(rows: Sequence[Row]) -> str:
    """Bytes of a sparse layer in training as a fraction of the dense layer's."""
    lines = [
        [row["case"], f"{row['density']:.0%}", f"{row['fraction_of_dense']:.1%}"]
        for row in Lookup(rows).find(suite="memory")
    ]
    return markdown(["layer", "density", "bytes of the dense layer's"], lines)


# marker in bench/NOTES.md -> its table
NOTES: dict[str, Callable[[Sequence[Row]], str]] = {
    "machines": machines,
    "spmm": operator_table("spmm"),
    "spmm_chain": operator_table("spmm_chain"),
    "sddmm": operator_table("sddmm"),
    "hamilton": operator_table("hamilton"),
    "sparse_hamilton": operator_table("sparse_hamilton"),
    "block_mm": operator_table("block_mm"),
    "hamilton_conv": operator_table("hamilton_conv"),
    "sparse_conv": operator_table("sparse_conv"),
    "sparse_conv_chain": operator_table("sparse_conv_chain"),
    "quaternion_norm": operator_table("quaternion_norm"),
    "quaternion_whiten": operator_table("quaternion_whiten"),
    "layers": layers_table,
    "thresholds": thresholds_table,
    "thresholds_conv": thresholds_of_convolutions,
    "pipeline": operator_table("pipeline"),
    "training": training_table,
    "memory": memory_table,
}
