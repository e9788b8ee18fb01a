"""Break-even densities: the kept fraction up to which a sparse layer is the faster one.

They stand in the tables of `sparseq.ops.choice`, one for each class of CPUs, where `python -m
bench.break_even_sweep --table` enters what the recorded sweep found; break_even.py reads them for a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sparseq.ops.choice import measured

STEPS = ["forward", "training"]


@dataclass(frozen=True)
class Thresholds:
    """Break-even densities of one kind of layer and of step, on maps of one size.

    Attributes:
        weights: (W) measured numbers of weights of the dense layer's parameter, ascending.
        batches: (B) measured numbers of rows of x, or of images, ascending.
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


@dataclass(frozen=True)
class MapThresholds:
    """Break-even densities of one kind of layer, of step and of threads: a table per size of map.

    Attributes:
        positions: (P) output positions of one example that were measured, ascending: height times
            width of a convolution's map, 1 for a linear layer.
        tables: (P) the densities at each of them.
    """

    positions: tuple[int, ...]
    tables: tuple[Thresholds, ...]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> MapThresholds:
        """From {positions: a table as `Thresholds.from_json` takes it}."""
        tables = tuple(Thresholds.from_json(table) for table in found.values())
        return cls(tuple(map(int, found)), tables)

    def limit(self, weights: int, batch: int, positions: int | None = None) -> float:
        """The break-even density, on the safe side of maps as of sizes (see `Thresholds.limit`).

        Where the map is not known it is the lowest of the maps on which layers so small were
        measured: networks have few weights where their maps are large.
        """
        if positions is None:
            places = [at for at, table in enumerate(self.tables) if around(table.weights, weights)]
        else:
            places = around(self.positions, positions)
        return min((self.tables[place].limit(weights, batch) for place in places), default=0.0)


def around(measured: Sequence[int], value: int) -> list[int]:
    """Indices of the measured points next to a value: one, two between points, none below."""
    if value in measured:
        return [measured.index(value)]
    above = sum(point < value for point in measured)
    return [index for index in (above - 1, above) if index < len(measured)] if above else []


@cache
def thresholds(kind: str, step: str, threads: int) -> tuple[MapThresholds, ...]:
    """Of a kind of layer ("Linear", "Conv2d 3x3", "QLinear by component" ...) and a step.

    Args:
        kind: the dense layer, and how its weight is pruned.
        step: "forward", or "training" for forward and backward.
        threads: CPU threads; the tables of all measured numbers for one that was not measured.

    Returns:
        The tables, one entry per number of threads; none for a kind that was not measured.
    """
    by_threads = measured().break_even.get(kind, {}).get(step, {})
    known = [by_threads[str(threads)]] if str(threads) in by_threads else by_threads.values()
    return tuple(MapThresholds.from_json(tables) for tables in known)
