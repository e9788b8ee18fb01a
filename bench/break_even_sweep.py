"""From which density on is a layer faster dense? The sweep behind `compress(policy="auto")`.

    python -m bench.break_even_sweep
    python -m bench.break_even_sweep --kinds conv
    python -m bench.break_even_sweep --kinds conv --disturbed
    python -m bench.break_even_sweep --table

They measure all, into bench/results/<machine>/; measure the convolutions alone; resume a sweep that
was stopped; and enter the rows' break-even densities into the thresholds of a class of CPUs, in
sparseq/ops/thresholds/.

A row holds one kind of layer at one size, map and batch: the times over the densities, ascending,
until the dense layer wins clearly. Each sparse layer takes turns with the dense one alone.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.break_even_cases import (
    BATCHES,
    DENSITIES,
    GROUPS,
    KINDS,
    THREADS,
    Case,
    Shape,
    case_name,
    cases,
    gate,
    operands,
    twins,
)
from bench.machine import RESULTS, ROOT, machine
from bench.results import Row, save_rows
from bench.suites.layers import call_of
from bench.timing import QUIET, Others, Race, threads, wait_for_quiet
from sparseq.files.atomic import write_atomically
from sparseq.ops._backend import activate
from sparseq.ops.build.cpu import cpu_class
from sparseq.ops.choice import table_file

CLEARLY_SLOWER = 0.85  # ratio at which a case needs no higher densities
SECONDS = 0.1  # for the rounds of one race
ROUNDS = (3, 9)  # fewest, most


def measure(kind: str, shape: Shape, batch: int, step: str) -> Row:
    """The row of one case, without the threads and the machine."""
    columns = ("densities", "ours_us", "baseline_us", "ratios")
    found: dict[str, list[float]] = {name: [] for name in columns}
    x, dy = operands(shape, batch)
    weights = 0
    for density in DENSITIES:
        sparse, dense = twins(kind, shape, density)
        weights = dense.get_parameter("weight").numel()
        gate(sparse, x)
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


def table_text(rows: list[Row], source: Path, table: Path) -> str:
    """The JSON of a class of CPUs (`sparseq.ops.choice`) with the break-even densities of rows."""
    about = {name: rows[0][name] for name in ("cpu", "cores", "torch")}
    kept = {name: json.loads(table.read_text())[name] for name in ("class", "kernels")}
    where = {"source": source.relative_to(ROOT).as_posix()}
    text = json.dumps({**where, **about, **kept, "break_even": tables(rows)}, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda match: " ".join(match[0].split()), text) + "\n"


def rows_file(folder: Path) -> Path:
    """The kept rows of a machine."""
    return folder / "sweep.json"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.break_even_sweep", description=__doc__)
    parser.add_argument("--table", action="store_true", help="write the table, measure nothing")
    parser.add_argument(
        "--cpu-class", default=cpu_class().name, help="that the rows were measured on"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--kinds", nargs="+", choices=[*GROUPS, *KINDS], default=KINDS)
    parser.add_argument("--steps", nargs="+", choices=list(BATCHES), default=list(BATCHES))
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait for quiet")
    parser.add_argument("--disturbed", action="store_true", help="only cases without a good row")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--machine", default=machine()["machine"], help="folder of the rows")
    chosen = parser.parse_args(arguments)
    source = rows_file(chosen.results / chosen.machine)
    if chosen.table:
        table = table_file(chosen.cpu_class)
        text = table_text(json.loads(source.read_text()), source, table)
        write_atomically(table, text.encode(), overwrite=True)
        print(f"{table} from {source}")
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
