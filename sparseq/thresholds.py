"""Break-even densities: the kept fraction up to which a sparse layer is the faster one.

They stand in thresholds.json, which `python -m bench.sweep --table` writes from the recorded sweep
in bench/results/; compression.py decides by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("thresholds.json")
STEPS = ["forward", "training"]


@dataclass(frozen=True)
class Thresholds:
    """Break-even densities of one kind of layer and one kind of step.

    Attributes:
        weights: (W) measured numbers of weights of the dense layer's parameter, ascending.
        batches: (B) measured numbers of rows of x, ascending.
        limits: (W, B) largest density, 0..1, at which no measured density up to it made the
            sparse layer the slower one; 0 where it never was the faster one.
    """

    weights: tuple[int, ...]
    batches: tuple[int, ...]
    limits: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Thresholds:
        """From {"batches": [...], "limits": {weights: [...]}}."""
        limits = {int(weights): tuple(row) for weights, row in found["limits"].items()}
        return cls(tuple(limits), tuple(found["batches"]), tuple(limits.values()))

    def limit(self, weights: int, batch: int) -> float:
        """The break-even density at a size and a batch, on the safe side.

        Between two measured points it is the lower of both; beyond the largest it is that of the
        largest; below the smallest, where the fixed cost of a call decides, it is 0.
        """
        rows, columns = around(self.weights, weights), around(self.batches, batch)
        return min((self.limits[row][column] for row in rows for column in columns), default=0.0)


def around(measured: Sequence[int], value: int) -> list[int]:
    """Indices of the measured points next to a value: one, two between points, none below."""
    if value in measured:
        return [measured.index(value)]
    above = sum(point < value for point in measured)
    return [index for index in (above - 1, above) if index < len(measured)] if above else []


@cache
def thresholds(kind: str, step: str, threads: int) -> tuple[Thresholds, ...]:
    """Of a kind of layer ("Linear", "QLinear by component", "QLinear by quaternion") and a step.

    Args:
        kind: the dense layer, and how its weight is pruned.
        step: "forward", or "training" for forward and backward.
        threads: CPU threads; the tables of all measured numbers for one that was not measured.

    Returns:
        The tables, none for a kind that was not measured.
    """
    found = json.loads(FILE.read_text())["tables"].get(kind, {}).get(step, {})
    measured = [found[str(threads)]] if str(threads) in found else found.values()
    return tuple(Thresholds.from_json(table) for table in measured)
