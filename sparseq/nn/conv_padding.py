"""What the dense and the sparse convolutions share: names of their settings, and their padding."""

from __future__ import annotations

from itertools import chain
from typing import Any

SETTINGS = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


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
