"""Break-even densities: the kept fraction up to which a sparse layer is the faster one.

They are stored in the tables of `sparseq.ops.choice`, one for each class of CPUs, which
bench/break_even_sweep.py fills from a recorded sweep; `sparseq.compression.break_even` reads them.
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
    """Break-even densities of one kind of layer and step, for maps of one size.

    Attributes:
        weights: (W) numbers of weights of the dense layer, as measured, ascending.
        batches: (B) numbers of rows of x, or of images, as measured, ascending.
        limits: (W, B) largest density, 0..1, such that the sparse layer was no slower at any
            measured density up to it; 0 where it was never faster.
    """

    weights: tuple[int, ...]
    batches: tuple[int, ...]
    limits: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Thresholds:
        """From {"batches": [...], "limits": {weights: [...]}}."""
        limits = {int(weights): tuple(row) for weights, row in table["limits"].items()}
        return cls(tuple(limits), tuple(table["batches"]), tuple(limits.values()))

    def limit(self, weights: int, batch: int) -> float:
        """A conservative break-even density for a size and a batch.

        Between two measured points it is the lower of the two; beyond the largest it is that of the
        largest; below the smallest, where the fixed cost of a call dominates, it is 0.
        """
        rows, columns = around(self.weights, weights), around(self.batches, batch)
        return min((self.limits[row][column] for row in rows for column in columns), default=0.0)

    def beyond(self, weights: int, batch: int) -> str:
        """Why `limit` knows nothing about a size and a batch; "" if they were measured."""
        if weights < self.weights[0]:
            return f"layers below {self.weights[0]:,} weights"
        return f"batches below {self.batches[0]}" if batch < self.batches[0] else ""


@dataclass(frozen=True)
class MapThresholds:
    """Break-even densities of one kind of layer, step and number of threads, by map size.

    Attributes:
        positions: (P) output positions of one example, as measured, ascending: height times width
            of a convolution's map, 1 for a linear layer.
        tables: (P) the densities for each of them.
    """

    positions: tuple[int, ...]
    tables: tuple[Thresholds, ...]

    @classmethod
    def from_json(cls, by_positions: Mapping[str, Any]) -> MapThresholds:
        """From {positions: a table for `Thresholds.from_json`}."""
        tables = tuple(Thresholds.from_json(table) for table in by_positions.values())
        return cls(tuple(map(int, by_positions)), tables)

    def limit(self, weights: int, batch: int, positions: int | None = None) -> float:
        """A conservative break-even density, for map sizes as for sizes (see `Thresholds.limit`).

        Without `positions` it is the lowest of all maps on which layers as small as this one were
        measured: networks have few weights where their maps are large.
        """
        if positions is None:
            tables = [table for table in self.tables if around(table.weights, weights)]
        else:
            tables = [self.tables[index] for index in around(self.positions, positions)]
        return min((table.limit(weights, batch) for table in tables), default=0.0)

    def beyond(self, weights: int, batch: int, positions: int | None = None) -> str:
        """Why `limit` knows nothing about these sizes; "" if they were measured."""
        if positions is not None and positions < self.positions[0]:
            return f"maps below {self.positions[0]} positions"
        near = range(len(self.tables)) if positions is None else around(self.positions, positions)
        reasons = [self.tables[index].beyond(weights, batch) for index in near]
        # without positions some map suffices, as in `limit`
        return "" if positions is None and "" in reasons else next(filter(None, reasons), "")


def around(measured: Sequence[int], value: int) -> list[int]:
    """Indices of the measured points next to a value: two between points, none below the first."""
    if value in measured:
        return [measured.index(value)]
    above = sum(point < value for point in measured)
    return [index for index in (above - 1, above) if index < len(measured)] if above else []


@cache
def thresholds(kind: str, step: str, threads: int) -> tuple[MapThresholds, ...]:
    """The measured break-even densities of a kind of layer and a step.

    Args:
        kind: row of the table: the dense layer and how its weight is pruned ("Linear",
            "Conv2d 3x3", "QLinear by component", ...).
        step: "forward", or "training" for forward and backward.
        threads: number of CPU threads.

    Returns:
        The entry for that number of threads, or if it was not measured, those for all measured
        numbers; empty for a kind that was not measured.
    """
    by_threads = measured().break_even.get(kind, {}).get(step, {})
    exact = by_threads.get(str(threads))
    entries = by_threads.values() if exact is None else [exact]
    return tuple(MapThresholds.from_json(entry) for entry in entries)
