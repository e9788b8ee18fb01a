"""The rows that `profile` measures, and their table, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

HEADINGS = ["layer", "kind", "kept\n%", "nnz", "bytes", "dense\nms", "sparse\nms"]
HEADINGS += ["speed\nup", "kernel"]
TEXT_COLUMNS = (0, 1, 8)  # may wrap; the others are numbers


@dataclass(frozen=True)
class LayerRow:
    """One layer, or the complete model.

    Attributes:
        name: path of the module in the model.
        kind: name of its class.
        density: fraction of the dense twin's weights that are kept (not exactly 0).
        weights: number of weights of the dense twin.
        nnz: number of kept weights.
        bytes: size of its parameters and buffers in memory, precomputed patterns included.
        dense_ms: median milliseconds of the dense twin; None if the model did not call the layer.
        sparse_ms: the same of the sparse layer, or, for a dense layer with zeros, of its sparse
            twin; None if the layer has no zeros.
        kernel: what computes the layer: op and backend, or "torch".
        reason: why a layer with zeros is dense, or sparse though it is slower so by itself; "" for
            other layers.
    """

    name: str
    kind: str
    density: float
    weights: int
    nnz: int
    bytes: int
    dense_ms: float | None
    sparse_ms: float | None
    kernel: str
    reason: str = ""

    @property
    def speedup(self) -> float | None:
        """dense_ms / sparse_ms; None if either was not measured."""
        return self.dense_ms / self.sparse_ms if self.dense_ms and self.sparse_ms else None


def layer_table(rows: Sequence[LayerRow], total: LayerRow, title: str, note: str = "") -> Table:
    """A rich table of layers, with the total as its footer, the reasons and a note as caption."""
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_footer=True,
        caption="\n".join(filter(None, (_reasons(rows), note))) or None,
        caption_justify="left",
    )
    for number, (heading, footer) in enumerate(zip(HEADINGS, _cells(total), strict=True)):
        justify: Any = "left" if number in TEXT_COLUMNS else "right"
        table.add_column(
            heading, footer, justify=justify, no_wrap=number not in TEXT_COLUMNS, overflow="fold"
        )
    for row in rows:
        table.add_row(*_cells(row))
    return table


def short_count(number: int) -> str:
    """A number in at most five characters: 9,999 or 10.0k or 1.23M."""
    if number < 10_000:
        return f"{number:,}"
    power = next(power for power in (1, 2, 3, 4) if number < 999.5 * 1000**power or power == 4)
    value = number / 1000**power
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f}{' kMGT'[power]}"


def _reasons(rows: Sequence[LayerRow]) -> str:
    """What decided about layers: each reason once, with its layers."""
    layers: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            layers.setdefault(row.reason, []).append(row.name)
    return "\n".join(f"{', '.join(names)}: {reason}" for reason, names in layers.items())


def _cells(row: LayerRow) -> list[str]:
    counts = [f"{100 * row.density:.2f}", short_count(row.nnz), short_count(row.bytes)]
    times = [_number(row.dense_ms, ".3f"), _number(row.sparse_ms, ".3f")]
    return [row.name, row.kind, *counts, *times, _number(row.speedup, ".2f"), row.kernel]


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
