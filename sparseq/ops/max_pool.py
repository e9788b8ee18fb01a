"""`max_pool`: the maximum of each 2x2 window, with stride 2.

    y[.., i, j] = max of x[.., 2i, 2j], x[.., 2i, 2j + 1], x[.., 2i + 1, 2j], x[.., 2i + 1, 2j + 1]

as in `F.max_pool2d(x, 2)`: the gradient goes to the first of equal values, in this order, and NaN
(the last one, if there are several) is larger than any number. An odd last row or column is left
out. The gradient `max_pool_dx` recomputes the argmax from x, so that no indices are stored.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._calls import below_autograd
from sparseq.ops._dtypes import check_operand
from sparseq.ops._inputs import takes_dense_tensors


@takes_dense_tensors
def max_pool(x: Tensor) -> Tensor:
    """The maximum of each 2x2 window.

    Args:
        x: (N, C, H, W) or (C, H, W), floating point, at least 2x2 pixels.

    Returns:
        (N, C, H // 2, W // 2) or (C, H // 2, W // 2); contiguous, x's dtype.

    Raises:
        ValueError: x has another shape or is not floating point.
    """
    _check(x)
    return _MAX_POOL(x)


def _check(x: Tensor) -> None:
    if x.dim() not in (3, 4) or min(x.shape[-2:]) < 2 or not x.is_floating_point():
        rule = "must be floating point maps (N, C, H, W) of at least 2x2 pixels"
        require(False, "max_pool", "x", rule, f"{x.dtype} {tuple(x.shape)}")


def max_pool_reference(x: Tensor) -> Tensor:
    """Plain torch: `F.max_pool2d`."""
    if not x.numel():  # which it refuses
        return x.new_zeros(_pooled(x))
    return F.max_pool2d(x, 2).contiguous()


def max_pool_dx_reference(dy: Tensor, x: Tensor) -> Tensor:
    """Plain torch: dy at the maximum of each window, zeros elsewhere."""
    dx = dy.new_zeros(x.shape).flatten(-2)
    return dx.scatter(-1, _argmax(x), dy.flatten(-2)).view(x.shape)


def _pooled(x: Tensor) -> tuple[int, ...]:
    """The shape of y for x."""
    return *x.shape[:-2], x.shape[-2] // 2, x.shape[-1] // 2


def _argmax(x: Tensor) -> Tensor:
    """(..., windows) int64: the index of each window's maximum in its flattened map."""
    if not x.numel():
        return x.new_zeros((*x.shape[:-2], math.prod(_pooled(x)[-2:])), dtype=torch.int64)
    return F.max_pool2d(x, 2, return_indices=True)[1].flatten(-2)


def _fake(x: Tensor) -> Tensor:
    _check(x)
    return x.new_empty(_pooled(x))


def _fake_dx(dy: Tensor, x: Tensor) -> Tensor:
    _check(x)
    check_operand("max_pool_dx", "dy", dy, _pooled(x), x.dtype)
    return x.new_empty(x.shape)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        with below_autograd():
            return _MAX_POOL(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return _MAX_POOL_DX(dy, *ctx.saved_tensors)


class _MaxPoolDx(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dy: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        with below_autograd():
            return _MAX_POOL_DX(dy, x)

    @staticmethod
    def backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        need_dy, need_x = ctx.needs_input_grad
        ddy = ddx.flatten(-2).gather(-1, _argmax(x)).view(_pooled(x)) if need_dy else None
        return ddy, torch.zeros_like(x) if need_x else None


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
