"""Is a checkout slower than another? Times the same cases in both, in alternating child processes.

    python -m bench.compare_checkouts ../old .
    python -m bench.compare_checkouts ../old . --caches /tmp/old-kernels /tmp/kernels --rounds 6
    python -m bench.compare_checkouts ../old . -k "spmm transposed"

The cases are all operators and the layers, forward and backward, on one and two threads. A child
process per round and checkout times them with its own kernels and prints medians; who goes first
alternates. A case's ratio is the median over the rounds of old / new: above 1 the new one is the
quicker. Printed are the geometric mean per operator, and the cases below 0.9 to be repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

CASES = Path(__file__).with_name("checkout_cases.py")
SUSPECT = 0.9


@dataclass
class Checkout:
    """A checkout, the folder of its compiled kernels, and the times taken of it."""

    path: Path
    cache: Path | None = None
    times: dict[str, list[float]] = field(default_factory=dict)

    def run(self, arguments: Sequence[str], keep: bool = True) -> None:
        """One child process."""
        environment = {**os.environ, "PYTHONPATH": str(self.path.resolve())}
        if self.cache is not None:
            environment["SPARSEQ_CACHE_DIR"] = str(self.cache.resolve())
        # -P: the folder of the script, which is one of the two checkouts, is not searched
        command = [sys.executable, "-P", str(CASES), *arguments]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        for name, time in json.loads(done.stdout).items() if keep else ():
            self.times.setdefault(name, []).append(time)


def compare(old: Checkout, new: Checkout, arguments: Sequence[str], rounds: int) -> None:
    """Take the times of both, by turns; kernels are built beforehand."""
    for side in (old, new):
        side.run(["--seconds", "0", "--threads", "1", "-k", "max_pool"], keep=False)
    for number in range(rounds):
        for side in (old, new) if number % 2 == 0 else (new, old):
            print(f"round {number + 1} of {rounds}: {side.path}", file=sys.stderr, flush=True)
            side.run(arguments)


def ratios_of(
    old: Mapping[str, Sequence[float]], new: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Case -> median of old / new over the rounds, of the cases that both have."""
    return {
        name: median(a / b for a, b in zip(old[name], new[name], strict=True))
        for name in old
        if name in new
    }


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean logarithm."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs))


def by_operator(ratios: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Operator or layer -> its cases, which begin with its name."""
    found: dict[str, dict[str, float]] = {}
    for name, ratio in ratios.items():
        found.setdefault(name.split()[0], {})[name] = ratio
    return found


def summary(ratios: Mapping[str, float]) -> Table:
    """A line per operator: cases, geometric mean, lowest and highest ratio of old / new."""
    table = Table(box=box.SIMPLE)
    for heading in ("operator or layer", "cases", "old / new", "lowest", "highest"):
        table.add_column(heading, justify="left" if heading.startswith("op") else "right")
    for name, cases in {**by_operator(ratios), "all": dict(ratios)}.items():
        values = list(cases.values())
        numbers = (geometric_mean(values), min(values), max(values))
        table.add_row(name, str(len(values)), *(f"{number:.3f}" for number in numbers))
    return table


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare_checkouts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--caches", type=Path, nargs=2, default=(None, None))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each case and round")
    parser.add_argument("--threads", nargs="+", default=["1", "2"])
    parser.add_argument("-k", dest="part", default="", help="part of the names of cases")
    chosen = parser.parse_args(arguments)
    old, new = Checkout(chosen.old, chosen.caches[0]), Checkout(chosen.new, chosen.caches[1])
    rest = ["--seconds", str(chosen.seconds), "--threads", *chosen.threads, "-k", chosen.part]
    compare(old, new, rest, chosen.rounds)
    ratios = ratios_of(old.times, new.times)
    if not ratios:
        raise SystemExit(f"no case has {chosen.part!r} in its name")
    console = Console(width=120)
    console.print(summary(ratios))
    slower = {name: ratio for name, ratio in ratios.items() if ratio < SUSPECT}
    print(f"{len(slower)} cases below {SUSPECT}: repeat each with -k and more rounds")
    for name, ratio in sorted(slower.items(), key=lambda entry: entry[1]):
        print(f"  {ratio:.3f}  {name}")


if __name__ == "__main__":
    main()
