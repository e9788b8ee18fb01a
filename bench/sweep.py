"""From which density on is a layer faster dense? The sweep behind `compress(policy="auto")`.

    python -m bench.sweep            measure, and keep the rows in bench/results/<machine>/
    python -m bench.sweep --table    write sparseq/thresholds.json from the rows that are kept

A row holds one kind of layer at one size and batch: the times over the densities, ascending, until
the dense layer wins clearly. Each sparse layer takes turns with the dense one alone.
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
from sparseq.container import write_atomically
from sparseq.nn import QLinear, SparseLinear, SparseQLinear
from sparseq.ops._backend import activate
from sparseq.thresholds import FILE

# inputs x outputs; in a bucket of equally many weights the worst shape counts
SHAPES = [(32, 16), (100, 10), (100, 12), (64, 64), (784, 12), (128, 128), (512, 32), (32, 512),
          (64, 300), (300, 100), (256, 256), (1024, 64), (64, 1024), (512, 512), (2048, 128),
          (128, 2048), (1024, 1024), (2048, 2048)]  # fmt: skip
BATCHES = {"forward": [1, 4, 16, 64, 256, 512], "training": [16, 64, 512]}
DENSITIES = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7]
KINDS = ["Linear", "QLinear by component", "QLinear by quaternion"]
THREADS = [1, 2]
CLEARLY_SLOWER = 0.85  # ratio at which a case needs no higher densities
SECONDS = 0.1  # for the rounds of one race
ROUNDS = (3, 9)  # fewest, most
GATE = 16  # rows of x that the gate looks at


def twins(kind: str, shape: tuple[int, int], density: float) -> tuple[nn.Module, nn.Module]:
    """A sparse layer of that density, and the dense layer it competes with."""
    k, m = shape
    generator = torch.Generator().manual_seed(1)
    if kind == "Linear":
        linear = nn.Linear(k, m)
        nn.init.normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        keep = random_mask(m, k, density)
        return SparseLinear.from_dense(linear, keep), linear
    layer, whole = QLinear(k, m, generator=generator), kind.endswith("by quaternion")
    keep = random_mask(m // 4 if whole else m, k // 4, density).view(-1, m // 4, k // 4)
    granularity = "quaternion" if whole else "component"
    return SparseQLinear.from_dense(layer, keep.expand(4, -1, -1), granularity), layer


def measure(kind: str, shape: tuple[int, int], batch: int, step: str) -> Row:
    """The row of one case, without the threads and the machine."""
    columns = ("densities", "ours_us", "baseline_us", "ratios")
    found: dict[str, list[float]] = {name: [] for name in columns}
    x, dy = normal(batch, shape[0]), normal(batch, shape[1], seed=2)
    weights = 0
    for density in DENSITIES:
        sparse, dense = twins(kind, shape, density)
        weights = dense.get_parameter("weight").numel()
        gate(sparse, x[:GATE])
        race = Race({"sparse": call_of(sparse, x, dy, step), "dense": call_of(dense, x, dy, step)})
        race.run(min(max(race.rounds(SECONDS, ROUNDS[0]), ROUNDS[0]), ROUNDS[1]))
        times = [1e6 * race.median(side) for side in ("sparse", "dense")]
        point = (density, round(times[0], 2), round(times[1], 2), round(times[1] / times[0], 3))
        for name, value in zip(found, point, strict=True):
            found[name].append(value)
        if point[-1] < CLEARLY_SLOWER:
            break
    return {"suite": "sweep", "subject": kind, "case": name_of(shape), "step": step,
            "batch": batch, "weights": weights, **found}  # fmt: skip


def gate(sparse: Any, x: Tensor) -> None:
    """The sparse layer computes its dense twin's function to rounding."""
    with torch.no_grad():
        agrees(sparse(x), sparse.to_dense().double()(x.double()), "sparse layer")


Case = tuple[int, str, str, tuple[int, int], int]  # threads, step, kind, shape, batch


def cases(counts: list[int], steps: list[str], kinds: list[str]) -> list[Case]:
    """The grid, or the chosen part of it."""
    return [(*case, batch) for case in product(counts, steps, kinds, SHAPES)
            if case[2] == "Linear" or all(size % 4 == 0 for size in case[3])
            for batch in BATCHES[case[1]]]  # fmt: skip


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
    good = {(row["threads"], row["step"], row["subject"], row["case"], row["batch"])
            for row in rows if "ours_us" in row and row.get("others", 1.0) < QUIET}  # fmt: skip
    return [case for case in grid if (*case[:3], name_of(case[3]), case[4]) not in good]


def break_even(row: Row) -> float:
    """The largest density of a row up to which the sparse layer never was the slower one.

    The ratios fall with the density; one that does not fit between its neighbors was disturbed,
    and the median of the three counts.
    """
    ratios = row["ratios"]
    smooth = [median(ratios[max(place - 1, 0) : place + 2]) if 0 < place < len(ratios) - 1
              else ratio for place, ratio in enumerate(ratios)]  # fmt: skip
    limit = 0.0
    for density, ratio in zip(row["densities"], smooth, strict=True):
        if ratio < 1:
            break
        limit = density
    return limit


def tables(rows: Iterable[Row]) -> dict[str, Any]:
    """kind -> step -> threads -> {"batches", "limits": {weights: [limit per batch]}}.

    Over the shapes of equally many weights the lowest counts.
    """
    lowest: dict[tuple[str, str, int, int, int], float] = {}
    for row in rows:
        key = (row["subject"], row["step"], row["threads"], row["weights"], row["batch"])
        lowest[key] = min(break_even(row), lowest.get(key, 1.0))
    found: dict[str, Any] = {}
    for kind, step, count, weights, batch in sorted(lowest):
        steps = found.setdefault(kind, {}).setdefault(step, {})
        table = steps.setdefault(str(count), {"batches": [], "limits": {}})
        table["batches"] = sorted({*table["batches"], batch})
        row_of = table["limits"].setdefault(str(weights), [])
        row_of.append(lowest[kind, step, count, weights, batch])
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
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
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
    grid = cases(chosen.threads, chosen.steps, chosen.kinds)
    if chosen.disturbed:
        grid = still_disturbed(grid, json.loads(source.read_text()))
    for row in sweep(grid, chosen.patience):
        print(row["threads"], row["step"], row["subject"], row["case"], row["batch"],
              break_even(row), row["others"], row["ratios"], flush=True)  # fmt: skip
        save_rows([row], chosen.results)


if __name__ == "__main__":
    main()
