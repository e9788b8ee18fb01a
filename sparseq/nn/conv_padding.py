"""What the dense and the sparse convolutions share: names of their settings, and their padding."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import chain
from typing import Any

from sparseq.errors import require

SETTINGS = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


def per_dimension(layer: str, name: str, value: Any, dims: int) -> tuple[int, ...]:
    """A setting of a convolution or pooling as one integer per dimension, checked."""
    try:
        parts = value if isinstance(value, Sequence) else (value,) * dims
        sizes = tuple(map(operator.index, parts))
    except TypeError:  # not integers
        sizes = ()
    least = 0 if "padding" in name else 1
    fits = len(sizes) == dims and min(sizes) >= least
    require(fits, layer, name, f"must be one integer or {dims}, at least {least}", value)
    return sizes


def padding_sides(layer: Any) -> list[tuple[int, int]]:
    """(before, after) for each spatial dimension of a convolution whose arguments were checked."""
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    if layer.padding == "same":
        sizes = zip(layer.dilation, layer.kernel_size, strict=True)
        totals = [dilation * (kernel - 1) for dilation, kernel in sizes]
        return [(total // 2, total - total // 2) for total in totals]
    return [(size, size) for size in layer.padding]


def pad_argument(sides: list[tuple[int, int]]) -> list[int]:
    """The argument `pad` of `F.pad` for padding of these sides: last dimension first."""
    return list(chain.from_iterable(reversed(sides)))
