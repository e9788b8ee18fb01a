"""From which density on is a layer faster dense? The sweep behind `compress(policy="auto")`.

    python -m bench.sweep                           measure; rows go to bench/results/<machine>/
    python -m bench.sweep --kinds conv              the convolutions alone
    python -m bench.sweep --kinds conv --disturbed  go on where a sweep was stopped
    python -m bench.sweep --table                   write sparseq/thresholds.json from the rows

A row holds one kind of layer at one size, map and batch: the times over the densities, ascending,
until the dense layer wins clearly. Each sparse layer takes turns with the dense one alone.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bench.baselines import agrees
from bench.cases import name_of, normal, random_mask
from bench.layers import call_of
from bench.results import ROOT, Row, machine, save_rows
from bench.timing import QUIET, Others, Race, threads, wait_for_quiet
from sparseq.compression.thresholds import FILE
from sparseq.files.container import write_atomically
from sparseq.nn import (
    QConv2d,
    QLinear,
    SparseConv2d,
    SparseLinear,
    SparseQConv2d,
    SparseQLinear,
)
from sparseq.ops._backend import activate

Shape = tuple[int, ...]  # inputs and outputs, and of a convolution kernel and map
# in a bucket of equally many weights, on equal maps, the worst shape counts
LINEAR = [
    (32, 16),
    (100, 10),
    (100, 12),
    (64, 64),
    (784, 12),
    (128, 128),
    (512, 32),
    (32, 512),
    (64, 300),
    (300, 100),
    (256, 256),
    (1024, 64),
    (64, 1024),
    (512, 512),
    (2048, 128),
    (128, 2048),
    (1024, 1024),
    (2048, 2048),
]
# on each map what networks for 32x32 images have there, from small to large
CONV_3X3 = [
    (3, 64, 3, 32),
    (4, 64, 3, 32),
    (16, 16, 3, 32),
    (64, 64, 3, 32),
    (32, 32, 3, 16),
    (64, 128, 3, 16),
    (128, 128, 3, 16),
    (64, 64, 3, 8),
    (256, 256, 3, 8),
    (128, 128, 3, 4),
    (512, 512, 3, 4),
    (128, 128, 3, 2),
    (512, 512, 3, 2),
]
CONV_1X1 = [
    (64, 64, 1, 32),
    (64, 256, 1, 32),
    (64, 128, 1, 16),
    (512, 128, 1, 16),
    (128, 256, 1, 8),
    (256, 1024, 1, 8),
    (256, 512, 1, 4),
    (2048, 512, 1, 4),
]
BATCHES = {"forward": [1, 4, 16, 64, 256, 512], "training": [16, 64, 512]}
IMAGES = {"forward": [1, 8, 32], "training": [1, 8, 32]}
DENSITIES = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7]
LINEAR_KINDS = ["Linear", "QLinear by component", "QLinear by quaternion"]
CONV_KINDS = [
    "Conv2d 3x3",
    "Conv2d 3x3 by slice",
    "Conv2d 1x1",
    "QConv2d 3x3 by component",
    "QConv2d 3x3 by quaternion",
    "QConv2d 1x1 by component",
    "QConv2d 1x1 by quaternion",
]
KINDS = LINEAR_KINDS + CONV_KINDS
GROUPS = {"linear": LINEAR_KINDS, "conv": CONV_KINDS}
THREADS = [1, 2]
CLEARLY_SLOWER = 0.85  # ratio at which a case needs no higher densities
SECONDS = 0.1  # for the rounds of one race
ROUNDS = (3, 9)  # fewest, most
GATE = 16  # rows of x that the gate looks at
GATE_IMAGES = 2


def twins(kind: str, shape: Shape, density: float) -> tuple[nn.Module, nn.Module]:
    """A sparse layer of that density, and the dense layer it competes with."""
    make = real_twins if kind.startswith(("Linear", "Conv2d")) else quaternion_twins
    return make(kind, shape, density)


def real_twins(kind: str, shape: Shape, density: float) -> tuple[nn.Module, nn.Module]:
    """The same of real layers."""
    inputs, outputs, *rest = shape
    layer = (
        nn.Conv2d(inputs, outputs, rest[0], padding=rest[0] // 2)
        if rest
        else nn.Linear(inputs, outputs)
    )
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    nn.init.zeros_(layer.bias)
    columns = inputs if kind.endswith("by slice") else layer.weight[0].numel()
    keep = random_mask(outputs, columns, density)
    keep = keep.repeat_interleave(layer.weight[0].numel() // columns, 1).view_as(layer.weight)
    return (SparseConv2d if rest else SparseLinear).from_dense(layer, keep), layer


def quaternion_twins(kind: str, shape: Shape, density: float) -> tuple[nn.Module, nn.Module]:
    """The same of quaternion layers."""
    inputs, outputs, *rest = shape
    generator = torch.Generator().manual_seed(1)
    layer = (
        QConv2d(inputs, outputs, rest[0], padding=rest[0] // 2, generator=generator)
        if (rest)
        else QLinear(inputs, outputs, generator=generator)
    )
    whole = kind.endswith("by quaternion")
    keep = random_mask(outputs // 4 if whole else outputs, layer.weight[0, 0].numel(), density)
    keep = keep.view(-1, *layer.weight.shape[1:]).expand_as(layer.weight)
    granularity = "quaternion" if whole else "component"
    return (SparseQConv2d if rest else SparseQLinear).from_dense(layer, keep, granularity), layer


def operands(shape: Shape, batch: int) -> tuple[Tensor, Tensor]:
    """x and the gradient of y."""
    inputs, outputs, *rest = shape
    size = 2 * rest[1:]
    return normal(batch, inputs, *size), normal(batch, outputs, *size, seed=2)


def measure(kind: str, shape: Shape, batch: int, step: str) -> Row:
    """The row of one case, without the threads and the machine."""
    columns = ("densities", "ours_us", "baseline_us", "ratios")
    found: dict[str, list[float]] = {name: [] for name in columns}
    x, dy = operands(shape, batch)
    weights = 0
    for density in DENSITIES:
        sparse, dense = twins(kind, shape, density)
        weights = dense.get_parameter("weight").numel()
        gate(sparse, x[: GATE_IMAGES if x.dim() > 2 else GATE])
        race = Race({"sparse": call_of(sparse, x, dy, step), "dense": call_of(dense, x, dy, step)})
        race.run(min(max(race.rounds(SECONDS, ROUNDS[0]), ROUNDS[0]), ROUNDS[1]))
        times = [1e6 * race.median(side) for side in ("sparse", "dense")]
        point = (density, round(times[0], 2), round(times[1], 2), round(times[1] / times[0], 3))
        for name, value in zip(found, point, strict=True):
            found[name].append(value)
        if point[-1] < CLEARLY_SLOWER:
            break
    positions = {"positions": shape[3] ** 2} if len(shape) > 2 else {}
    return {
        "suite": "sweep",
        "subject": kind,
        "case": case_name(shape),
        "step": step,
        "batch": batch,
        "weights": weights,
        **positions,
        **found,
    }


def gate(sparse: Any, x: Tensor) -> None:
    """The sparse layer computes its dense twin's function to rounding."""
    with torch.no_grad():
        agrees(sparse(x), sparse.to_dense().double()(x.double()), "sparse layer")


def case_name(shape: Shape) -> str:
    """784x300, or 64x64 on 32x32; the kind says the kernel."""
    return name_of(shape[:2]) + (f" on {shape[3]}x{shape[3]}" if len(shape) > 2 else "")


def shapes_of(kind: str) -> list[Shape]:
    """The shapes that a kind of layer can have."""
    shapes: list[Any] = LINEAR if kind in LINEAR_KINDS else CONV_1X1 if "1x1" in kind else CONV_3X3
    return [
        shape
        for shape in shapes
        if not kind.startswith("Q") or all(size % 4 == 0 for size in shape[:2])
    ]


Case = tuple[int, str, str, Shape, int]  # threads, step, kind, shape, batch


def cases(counts: list[int], steps: list[str], kinds: list[str]) -> list[Case]:
    """The grid, or the chosen part of it."""
    return [
        (count, step, kind, shape, batch)
        for count, step, kind in product(counts, steps, kinds)
        for shape in shapes_of(kind)
        for batch in (IMAGES if len(shape) > 2 else BATCHES)[step]
    ]


def sweep(grid: Iterable[Case], patience: float) -> Iterator[Row]:
    """A row per case, as they are measured; `others` says how many cores others used meanwhile.

    A case is measured again while it is disturbed, for `patience` seconds at most.
    """
    for count, step, kind, shape, batch in grid:
        end = time.monotonic() + patience
        while True:
            wait_for_quiet(end - time.monotonic())
            others = Others()
            with threads(count):
                row = measure(kind, shape, batch, step)
            busy = round(others.cores(), 3)
            if busy < QUIET or time.monotonic() > end:
                break
        yield {**row, "threads": count, "baseline": "dense", "others": busy, **machine()}


def still_disturbed(grid: Iterable[Case], rows: Iterable[Row]) -> list[Case]:
    """The cases without a whole undisturbed row."""
    good = {
        (row["threads"], row["step"], row["subject"], row["case"], row["batch"])
        for row in rows
        if "ours_us" in row and row.get("others", 1.0) < QUIET
    }
    return [case for case in grid if (*case[:3], case_name(case[3]), case[4]) not in good]


def break_even(row: Row) -> float:
    """The largest density of a row up to which the sparse layer never was the slower one.

    The ratios fall with the density; one that does not fit between its neighbors was disturbed,
    and the median of the three counts.
    """
    ratios = row["ratios"]
    smooth = [
        median(ratios[max(place - 1, 0) : place + 2]) if 0 < place < len(ratios) - 1 else ratio
        for place, ratio in enumerate(ratios)
    ]
    limit = 0.0
    for density, ratio in zip(row["densities"], smooth, strict=True):
        if ratio < 1:
            break
        limit = density
    return limit


def tables(rows: Iterable[Row]) -> dict[str, Any]:
    """kind -> step -> threads -> output positions of one example (1 for a linear layer)
    -> {"batches", "limits": {weights: [limit per batch]}}.

    Over the shapes of equally many weights the lowest counts. A size counts once it is measured at
    every batch of its map.
    """
    lowest: dict[tuple[str, str, int, int, int, int], float] = {}
    for row in rows:
        key = (
            row["subject"],
            row["step"],
            row["threads"],
            row.get("positions", 1),
            row["weights"],
            row["batch"],
        )
        lowest[key] = min(break_even(row), lowest.get(key, 1.0))
    maps: dict[tuple[str, str, int, int], dict[int, dict[int, float]]] = {}
    for (*place, weights, batch), limit in sorted(lowest.items()):
        maps.setdefault(tuple(place), {}).setdefault(weights, {})[batch] = limit  # type: ignore
    found: dict[str, Any] = {}
    for (kind, step, count, positions), limits in maps.items():
        batches = sorted({batch for row in limits.values() for batch in row})
        counts = found.setdefault(kind, {}).setdefault(step, {})
        counts.setdefault(str(count), {})[str(positions)] = {
            "batches": batches,
            "limits": {
                str(weights): list(row.values())
                for weights, row in limits.items()
                if len(row) == len(batches)
            },
        }
    return found


def table_text(rows: list[Row], source: Path) -> str:
    """The JSON of thresholds.json: where it comes from, and the tables, a line per size."""
    about = {name: rows[0][name] for name in ("cpu", "cores", "isa", "torch")}
    content = {"source": source.relative_to(ROOT).as_posix(), **about, "tables": tables(rows)}
    text = json.dumps(content, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def rows_file(folder: Path) -> Path:
    """The kept rows of a machine."""
    return folder / "sweep.json"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.sweep", description=__doc__)
    parser.add_argument("--table", action="store_true", help="write the table, measure nothing")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--kinds", nargs="+", choices=[*GROUPS, *KINDS], default=KINDS)
    parser.add_argument("--steps", nargs="+", choices=list(BATCHES), default=list(BATCHES))
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait for quiet")
    parser.add_argument("--disturbed", action="store_true", help="only cases without a good row")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--machine", default=machine()["machine"], help="folder of the rows")
    chosen = parser.parse_args(arguments)
    source = rows_file(chosen.results / chosen.machine)
    if chosen.table:
        text = table_text(json.loads(source.read_text()), source)
        write_atomically(FILE, text.encode(), overwrite=True)
        print(f"{FILE} from {source}")
        return
    if activate("cpu")["spmm"] != "compiled":
        raise SystemExit("the sweep is about the compiled kernels, which cannot be had here")
    kinds = [kind for name in chosen.kinds for kind in GROUPS.get(name, [name])]
    grid = cases(chosen.threads, chosen.steps, kinds)
    if chosen.disturbed and source.exists():
        grid = still_disturbed(grid, json.loads(source.read_text()))
    for row in sweep(grid, chosen.patience):
        print(
            row["threads"],
            row["step"],
            row["subject"],
            row["case"],
            row["batch"],
            break_even(row),
            row["others"],
            row["ratios"],
            flush=True,
        )
        save_rows([row], chosen.results)


if __name__ == "__main__":
    main()
