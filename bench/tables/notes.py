"""Tables in Markdown from rows of results; a cell is the ratio on one thread / on two."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results import Row
from bench.sweep import tables as break_even_tables
from bench.timing import QUIET
from sparseq.compression.thresholds import Thresholds

THREADS = (1, 2)
SPARSE = [0.2, 0.1, 0.05, 0.02]
LARGE = ("2048x2048", "1024x1024")
NONE = "-"


@dataclass(frozen=True)
class Lookup:
    """Rows by what they are of."""

    rows: Sequence[Row]

    def find(self, **case: Any) -> list[Row]:
        """The rows that have these values."""
        return [
            row for row in self.rows if all(row.get(name) == value for name, value in case.items())
        ]

    def cell(self, case: Row, column: str = "ratio") -> str:
        """A column of the case on one and on two threads, as "2.6 / 2.5"."""
        found = [self.find(**case, threads=count) for count in THREADS]
        if not any(found):
            return NONE
        return " / ".join(number(rows[-1][column]) if rows else NONE for rows in found)


def number(ratio: float) -> str:
    """Two significant digits, three from 10 on."""
    return f"{ratio:.0f}" if ratio >= 99.5 else f"{ratio:.1f}" if ratio >= 9.95 else f"{ratio:.2f}"


def markdown(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; columns of numbers to the right, the first one to the left."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, rule, *lines))


def speed_section(rows: Sequence[Row], figure: Path) -> str:
    """The README's section: what was measured where, two tables, the figure.

    Only rows that are known to be undisturbed count.
    """
    about = rows[-1]
    found = Lookup([row for row in rows if row.get("others", 1.0) < QUIET])
    machine = f"{about['cpu']} ({about['cores']} cores, {about['isa']}, no AMX)"
    intro = (
        "Median time of `nn.Linear` in fp32 divided by ours, above 1 we are faster, on **one thread"
        f" / two\nthreads** of {machine}, torch {about['torch']}. The whole call of the\nmodule is"
        " timed, from batch-major tensors to batch-major tensors; `training` is forward and"
        " backward\nwith all gradients. Two other baselines have columns of their own: `nn.Linear`"
        " in bf16, and\ntorch's CSR product, the quickest of its forms. A dash: not measured, or"
        " not on a quiet machine."
    )
    return "\n\n".join(
        [
            intro,
            "Sparse layers, by the fraction of weights kept:",
            sparse_table(found),
            "Dense quaternion layers:",
            quaternion_table(found),
            NETWORKS,
            _pivot(found.find(suite="networks")),
            network_memory(rows),
            f"![useful GFLOP/s against density]({figure.as_posix()})",
            "Made by `pytest --benchmark`, `python -m bench.sweep` and `python -m bench.report`.",
        ]
    )


NETWORKS = (
    "Whole convolutional networks on images of 3x32x32. `forward` is inference with batch"
    " normalization\nfolded on both sides, `training` a whole step of SGD; `dense` is torch in"
    " fp32, in inference\nthe quicker of its two memory layouts. Pruned networks keep the given"
    " fraction of each layer."
)

# title, batches, and what the rows are of
LINES: list[tuple[str, tuple[int, ...], Row]] = [
    *(
        (
            f"`SparseLinear` {size}",
            (64, 512),
            {"suite": "layers", "subject": "SparseLinear", "case": size},
        )
        for size in LARGE
    ),
    *(
        (
            f"`SparseQLinear` {LARGE[0]}, {kept}",
            (64, 512),
            {"suite": "layers", "subject": f"SparseQLinear by {granularity}", "case": LARGE[0]},
        )
        for granularity, kept in (("quaternion", "whole quaternions"), ("component", "components"))
    ),
    ("MLP 4 x 2048, ReLU", (64, 512), {"suite": "pipeline", "subject": "mlp 4x2048"}),
]


def sparse_table(found: Lookup) -> str:
    """Sparse layers and the deep network: a column per density, against dense fp32."""
    lines = [
        _sparse_line(found, title, step, batch, case)
        for title, batches, case in LINES
        for step in ("forward", "training")
        for batch in batches
    ]
    lines += [line for block in (16, 64) for line in _block_lines(found, block)]
    headings = [
        "layer",
        "step",
        "batch",
        *(f"{100 * density:.0f} %" for density in SPARSE),
        "bf16, 5 %",
        "torch CSR, 5 %",
    ]
    return markdown(headings, [line for line in lines if set(line[3:]) != {NONE}])


def _sparse_line(found: Lookup, title: str, step: str, batch: int, case: Row) -> list[str]:
    dense = "dense" if case["suite"] == "pipeline" else "nn.Linear"
    case = {**case, "step": step, "batch": batch}
    fp32 = [
        found.cell({**case, "density": density, "baseline": f"{dense} fp32"}) for density in SPARSE
    ]
    at = {**case, "density": 0.05}
    others = [found.cell({**at, "baseline": name}) for name in (f"{dense} bf16", "torch CSR")]
    return [title, step, str(batch), *fp32, *others]


def _block_lines(found: Lookup, block: int) -> list[list[str]]:
    case = {
        "suite": "layers",
        "subject": f"ExpanderLinear block({block})",
        "case": LARGE[0],
        "batch": 512,
        "baseline": "nn.Linear fp32",
    }
    cells = {
        step: [
            found.cell({**case, "step": step, "density": density}) for density in (0.125, 0.0625)
        ]
        for step in ("forward", "training")
    }
    return [
        [
            f"`ExpanderLinear`, block({block}), {LARGE[0]}",
            step,
            "512",
            NONE,
            f"{high} at 12.5 %" if high != NONE else NONE,
            f"{low} at 6.25 %" if low != NONE else NONE,
            NONE,
            NONE,
            NONE,
        ]
        for step, (high, low) in cells.items()
    ]


def quaternion_table(found: Lookup) -> str:
    """QLinear against layers of the same real size."""
    lines = []
    for case in LARGE:
        for step, batches in (("forward", (1, 16, 64, 512)), ("training", (64, 512))):
            for batch in batches:
                at = {
                    "suite": "layers",
                    "subject": "QLinear",
                    "case": case,
                    "step": step,
                    "batch": batch,
                }
                ratios = [
                    found.cell({**at, "baseline": name})
                    for name in ("nn.Linear fp32", "nn.Linear bf16", "cat then linear")
                ]
                lines.append([f"`QLinear` {case}", step, str(batch), *ratios])
    return markdown(
        ["layer", "step", "batch", "nn.Linear fp32", "nn.Linear bf16", "concatenate, then linear"],
        lines,
    )


def network_memory(rows: Sequence[Row]) -> str:
    """Peak memory of a training step on a graph, and with a mask on the dense network."""
    lines = [
        [row["subject"], str(row["ours_mb"]), str(row["masked_mb"]), number(row["ratio"])]
        for row in Lookup(rows).find(suite="networks_memory")
    ]
    return markdown(
        [
            "peak memory of training, batch 32",
            "sparse layers (MB)",
            "dense with a mask (MB)",
            "ratio",
        ],
        lines,
    )


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


def credible(row: Row) -> bool:
    """Undisturbed; a row that does not say so counts where a core was left for the others."""
    return row.get("others", 0.0 if row["threads"] == 1 else 1.0) < QUIET


def _pivot(rows: Sequence[Row]) -> str:
    found, names = Lookup(rows), ("subject", "case", "step", "batch", "density")
    used = [name for name in names if any(name in row for row in rows)]
    baselines = list(dict.fromkeys(row["baseline"] for row in rows))
    lines = []
    for values in dict.fromkeys(tuple(row.get(name) for name in used) for row in rows):
        case = dict(zip(used, values, strict=True))
        cells = [found.cell({**case, "baseline": baseline}) for baseline in baselines]
        lines.append([*("" if value is None else str(value) for value in values), *cells])
    return markdown([*used, *baselines], lines)


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
