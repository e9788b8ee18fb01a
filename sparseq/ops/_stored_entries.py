"""Products of the stored entries alone, for numbers where a dense product with zeros is another.

0 * inf and 0 * NaN are NaN. A kernel does not multiply the entries that a pattern drops, so that
an infinite x reaches only the outputs that read it; a plain dense product does not know them apart
from stored zeros. The references therefore multiply entry by entry, slowly, where x is not finite.
On other devices than the CPU they do not look, since the answer would have to come back from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparseq.ops._calls import is_transformed

AT_ONCE = 1 << 22  # products


class Entries(NamedTuple):
    """Entries of a matrix: y[rows[p]] += values[p] * x[columns[p]]; rows and columns int64."""

    rows: Tensor
    columns: Tensor
    values: Tensor

    def transposed(self) -> Entries:
        return Entries(self.columns, self.rows, self.values)

    def chosen(self, which: Tensor) -> Entries:
        """The entries for which a bool tensor holds."""
        return Entries(self.rows[which], self.columns[which], self.values[which])


def needs_entries(x: Tensor) -> bool:
    """Whether a dense product of x with zeros at dropped entries would be another one.

    Under a transform of torch.func, x has no values to look at: then it counts as finite.
    """
    return x.device.type == "cpu" and not is_transformed() and not bool(x.isfinite().all())


def product_of_entries(x: Tensor, entries: Entries, size: int, bias: Tensor | None) -> Tensor:
    """(..., size): the product of the entries and x (..., k), plus the bias (size)."""
    wide = torch.float32 if x.element_size() == 2 else x.dtype
    columns = x.reshape(-1, x.shape[-1]).t().to(wide)
    y = columns.new_zeros(size, columns.shape[1])
    step = max(1, AT_ONCE // max(columns.shape[1], 1))
    for start in range(0, len(entries.values), step):
        rows, inputs, values = (part[start : start + step] for part in entries)
        y.index_add_(0, rows, columns[inputs] * values.to(wide)[:, None])
    if bias is not None:
        y += bias.to(wide)[:, None]
    return y.t().reshape(*x.shape[:-1], size).to(x.dtype)


class Window(NamedTuple):
    """What one tap reads: a part of the image, for a part of the places of the output."""

    tap: int
    image: tuple[slice, ...]
    output: tuple[slice, ...]


def windows(
    image: Sequence[int],
    output: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Iterator[Window]:
    """The windows of all taps that read some of the image; the padding is in none."""
    sizes = list(zip(image, output, stride, padding, dilation, strict=True))
    for tap, place in enumerate(itertools.product(*map(range, kernel))):
        reads = [_reads(t, *numbers) for t, numbers in zip(place, sizes, strict=True)]
        if all(outputs.stop > outputs.start for _, outputs in reads):
            yield Window(tap, tuple(r[0] for r in reads), tuple(r[1] for r in reads))


def _reads(
    tap: int, image: int, output: int, stride: int, padding: int, dilation: int
) -> tuple[slice, slice]:
    """Along one dimension: the part of the image, and the places of the output that read it."""
    shift = dilation * tap - padding
    first = max(0, -(shift // stride))
    last = min(output - 1, (image - 1 - shift) // stride)
    at = stride * first + shift
    return slice(at, at + stride * (last - first) + 1, stride), slice(first, last + 1)
