"""The quaternion layers of the known libraries: build the real weight at each call."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cat_then_linear(x: Tensor, parts: Iterable[Tensor], bias: Tensor | None) -> Tensor:
    """The quaternion layer of the known libraries: build the 4x real weight, call one GEMM.

    Args:
        x: (n, 4 k).
        parts: r, i, j, k, each (m, k), parameters of their own.
        bias: (4 m) or None.
    """
    r, i, j, k = parts
    rows = ([r, -i, -j, -k], [i, r, -k, j], [j, k, r, -i], [k, -j, i, r])
    return F.linear(x, torch.cat([torch.cat(row, dim=1) for row in rows], dim=0), bias)


def cat_then_conv(x: Tensor, parts: Iterable[Tensor], bias: Tensor | None, padding: int) -> Tensor:
    """The same for convolutions: build the 4x real weight, call torch's.

    Args:
        x: (n, 4 k, height, width).
        parts: r, i, j, k, each (m, k, *kernel), parameters of their own.
        bias: (4 m) or None.
        padding: zeros on each side.
    """
    r, i, j, k = parts
    rows = ([r, -i, -j, -k], [i, r, -k, j], [j, k, r, -i], [k, -j, i, r])
    weight = torch.cat([torch.cat(row, dim=1) for row in rows], dim=0)
    return F.conv2d(x, weight, bias, padding=padding)


class CatThenLinear(nn.Module):
    """`cat_then_linear` as a layer with four parameters.

    Args:
        weight: (4, m, k), copied.
        bias: (4 m) or None, copied.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(part.clone()) for part in weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., 4 k) -> (..., 4 m)."""
        return cat_then_linear(x, self.parts, self.bias)


class CatThenConv(nn.Module):
    """`cat_then_conv` as a layer with four parameters.

    Args:
        weight: (4, m, k, *kernel), copied.
        bias: (4 m) or None, copied.
        padding: zeros on each side.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: int) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(part.clone()) for part in weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4 k, height, width) -> (n, 4 m, height', width')."""
        return cat_then_conv(x, self.parts, self.bias, self.padding)
