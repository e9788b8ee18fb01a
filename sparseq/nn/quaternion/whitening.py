"""Whitening of quaternion channels, by the statistics of a batch or by given ones.

    y = gamma W (x - m) + beta,   W = L^-1,   V + eps 1 = L L^T

with mean m and covariance V of the four components of each channel; differentiable to any order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseq.ops.choice import measured
from sparseq.ops.quaternion_norm import quaternion_moments
from sparseq.ops.quaternion_whiten import (
    quaternion_whiten,
    quaternion_whiten_dx,
    quaternion_whiten_sums,
)


def whiten_batch(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Whiten by the batch's own statistics.

    Args:
        x: (N, 4 C, ...), floating point.
        gamma: (4, 4, C) or None for the identity; of `sums_dtype(x)`, as beta.
        beta: (4 C) or None for 0.
        eps: added to the covariance's diagonal.

    Returns:
        y of x's shape, dtype and memory format; and the statistics (5, 4, C), the mean, then the
        covariance undivided by n - 1, without gradient.
    """
    rows = _channels_last_rows(x)
    y, stats = _WhitenBatch.apply(x if rows is None else rows, gamma, beta, eps)
    return _shaped_as(x, y, rows), stats


def whiten_by(
    x: Tensor, stats: tuple[Tensor, Tensor], gamma: Tensor | None, beta: Tensor | None, eps: float
) -> Tensor:
    """Whiten by the mean (4 C) and the covariance (4, 4, C) given; else as `whiten_batch`."""
    mean, cov = stats
    rows = _channels_last_rows(x)
    y = quaternion_whiten(x if rows is None else rows, mean, cov, gamma, beta, eps)
    return _shaped_as(x, y, rows)


def _channels_last_rows(x: Tensor) -> Tensor | None:
    """(N * positions, 4 C), a view, if x has its channels last and enough of them."""
    enough = x.shape[1] >= 4 * measured().whitening.channels_last
    if x.dim() == 2 or x.is_contiguous() or not enough:
        return None
    last = x.movedim(1, -1)
    return last.reshape(-1, x.shape[1]) if last.is_contiguous() else None


def _shaped_as(x: Tensor, y: Tensor, rows: Tensor | None) -> Tensor:
    return y if rows is None else y.view(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)


class _WhitenBatch(torch.autograd.Function):
    """The gradient in two passes over x and dy: their products, then one map of both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float):
        stats = quaternion_moments(x)
        mean, cov = stats[0].flatten(), stats[1:]
        ctx.save_for_backward(x, gamma, stats)
        ctx.eps = eps
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        return quaternion_whiten(x, mean, cov, gamma, beta, eps), stats

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _: Any):  # type: ignore[override]
        if dy is None:
            return None, None, None, None
        x, gamma, stats = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second gradient goes through the statistics again
            stats = quaternion_moments(x)
        mean, cov = stats[0].flatten(), stats[1:]
        sums = quaternion_whiten_sums(dy, x, mean, cov, ctx.eps)
        by_x, by_gamma, by_beta, _ = ctx.needs_input_grad
        return (
            quaternion_whiten_dx(dy, x, mean, cov, gamma, sums, ctx.eps) if by_x else None,
            sums[1:] if by_gamma else None,
            sums[0].flatten() if by_beta else None,
            None,
        )
