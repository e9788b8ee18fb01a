"""`max_pool`: the largest number of each window of 2x2 pixels, windows side by side.

    y[.., i, j] = max of x[.., 2i, 2j], x[.., 2i, 2j + 1], x[.., 2i + 1, 2j], x[.., 2i + 1, 2j + 1]

as `F.max_pool2d(x, 2)` has it: of equal numbers the first counts, in this order, and a NaN, the
last of them, counts more than any number. An odd last row or column is left out. Its gradient
`max_pool_dx` finds the places in x again, so that none are kept in between.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import below_autograd, declare


def max_pool(x: Tensor) -> Tensor:
    """The largest number of each 2x2 window.

    Args:
        x: (N, C, H, W) or (C, H, W), floating point, of at least 2x2 pixels.

    Returns:
        (N, C, H // 2, W // 2), or (C, ...); contiguous, x's dtype.

    Raises:
        ValueError: x of another shape or of whole numbers.
    """
    if x.dim() not in (3, 4) or min(x.shape[-2:]) < 2 or not x.is_floating_point():
        rule = "must be floating point maps (N, C, H, W) of at least 2x2 pixels"
        require(False, "max_pool", "x", rule, f"{x.dtype} {tuple(x.shape)}")
    return _MAX_POOL(x)


def max_pool_reference(x: Tensor) -> Tensor:
    """Plain torch."""
    return F.max_pool2d(x, 2).contiguous()


def max_pool_dx_reference(dy: Tensor, x: Tensor) -> Tensor:
    """Plain torch: zeros, but for dy at the places of the largest."""
    dx = dy.new_zeros(x.shape).flatten(-2)
    return dx.scatter(-1, _places(x), dy.flatten(-2)).view(x.shape)


def _pooled(x: Tensor) -> tuple[int, ...]:
    """Shape of y for x."""
    return *x.shape[:-2], x.shape[-2] // 2, x.shape[-1] // 2


def _places(x: Tensor) -> Tensor:
    """(..., windows) int64: the pixel of each window that is kept."""
    return F.max_pool2d(x, 2, return_indices=True)[1].flatten(-2)


def _fake(x: Tensor) -> Tensor:
    return x.new_empty(_pooled(x))


def _fake_dx(dy: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor):
        ctx.save_for_backward(x)
        with below_autograd():
            return _MAX_POOL(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor):  # type: ignore[override]
        return _MAX_POOL_DX(dy, *ctx.saved_tensors)


class _MaxPoolDx(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dy: Tensor, x: Tensor):
        ctx.save_for_backward(x)
        with below_autograd():
            return _MAX_POOL_DX(dy, x)

    @staticmethod
    def backward(ctx: Any, ddx: Tensor):  # type: ignore[override]
        (x,) = ctx.saved_tensors
        need_dy, need_x = ctx.needs_input_grad
        kept = ddx.flatten(-2).gather(-1, _places(x)) if need_dy else None
        if kept is not None:
            kept = kept.view(_pooled(x))
        return kept, torch.zeros_like(x) if need_x else None


_MAX_POOL = declare(
    "max_pool(Tensor x) -> Tensor", max_pool_reference, _fake, _MaxPool, autocast=False
)
_MAX_POOL_DX = declare(
    "max_pool_dx(Tensor dy, Tensor x) -> Tensor",
    max_pool_dx_reference,
    _fake_dx,
    _MaxPoolDx,
    autocast=False,
)
