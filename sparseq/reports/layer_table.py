"""What `profile` says of a layer, and its table, which fits 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

HEADINGS = ["layer", "kind", "kept\n%", "nnz", "bytes", "dense\nms", "sparse\nms"]
HEADINGS += ["speed\nup", "kernel"]
WORDS = (0, 1, 8)  # columns of words, which may wrap; the others are numbers


@dataclass(frozen=True)
class LayerRow:
    """One layer, or the whole model.

    Attributes:
        name: path of the module in the model.
        kind: its type.
        density: fraction of the dense twin's weights that is kept (not exactly 0).
        weights: number of the dense twin's weights.
        nnz: number of kept weights.
        bytes: of its parameters and buffers in memory, prepared forms of the pattern included.
        dense_ms: median milliseconds of the dense layer; None if the model did not call it.
        sparse_ms: the same of the sparse layer; of what it would take if the layer is dense but
            has zeros. None where there is nothing sparse.
        kernel: what computes the layer as it is: op and backend, or "torch".
        reason: why a layer with zeros is dense, as `compress` sees it at this batch; "" for others.
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
        """Dense time over sparse time."""
        return self.dense_ms / self.sparse_ms if self.dense_ms and self.sparse_ms else None


def layer_table(rows: Sequence[LayerRow], total: LayerRow, title: str) -> Table:
    """A rich table of layers, the whole model at its foot; why layers are dense stands below."""
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_footer=True,
        caption=_reasons(rows) or None,
        caption_justify="left",
    )
    for number, (heading, footer) in enumerate(zip(HEADINGS, _cells(total), strict=True)):
        justify: Any = "left" if number in WORDS else "right"
        table.add_column(
            heading, footer, justify=justify, no_wrap=number not in WORDS, overflow="fold"
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
    """Why layers with zeros are dense, each reason once."""
    layers: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            layers.setdefault(row.reason, []).append(row.name)
    return "\n".join(f"{', '.join(names)}: {reason}" for reason, names in layers.items())


def _cells(row: LayerRow) -> list[str]:
    counts = [f"{100 * row.density:.2f}", short_count(row.nnz), short_count(row.bytes)]
    times = [_number(row.dense_ms, ".3f"), _number(row.sparse_ms, ".3f")]
    return [row.name, row.kind, *counts, *times, _number(row.speedup, ".2f"), row.kernel]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
