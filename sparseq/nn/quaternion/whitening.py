"""Whitening of quaternion channels, with the statistics of the batch or other ones.

    y = gamma W (x - m) + beta,   W = L^-1,   V + eps 1 = L L^T

with the mean m and covariance V of the four components of each channel; differentiable to any
order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseq.ops._calls import is_transformed
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
    """Whiten with the statistics of the batch.

    Args:
        x: (N, 4 C, ...), floating point.
        gamma: (4, 4, C) or None for the identity; of `sums_dtype(x)`, as beta.
        beta: (4 C) or None for 0.
        eps: added to the covariance's diagonal.

    Returns:
        y of x's shape, dtype and memory format; and the statistics (5, 4, C), the mean followed by
        the biased covariance (divided by n), without gradient.
    """
    if (
        is_transformed()
    ):  # no autograd.Function of ours, but ops that torch differentiates one by one
        stats = quaternion_moments(x)
        return quaternion_whiten(x, stats[0].flatten(), stats[1:], gamma, beta, eps), stats.detach()
    rows = _channels_last_rows(x)
    y, stats = _WhitenBatch.apply(x if rows is None else rows, gamma, beta, eps)
    return _shaped_as(x, y, rows), stats


def whiten_by(
    x: Tensor, stats: tuple[Tensor, Tensor], gamma: Tensor | None, beta: Tensor | None, eps: float
) -> Tensor:
    """Whiten with `stats`, a mean (4 C) and a covariance (4, 4, C); else as `whiten_batch`."""
    mean, cov = stats
    rows = _channels_last_rows(x)
    y = quaternion_whiten(x if rows is None else rows, mean, cov, gamma, beta, eps)
    return _shaped_as(x, y, rows)


def _channels_last_rows(x: Tensor) -> Tensor | None:
    """(N * positions, 4 C), a view, if x is in channels-last format with enough channels."""
    has_enough = x.shape[1] >= 4 * measured().whitening.channels_last
    if x.dim() == 2 or x.is_contiguous() or not has_enough:
        return None
    last = x.movedim(1, -1)
    return last.reshape(-1, x.shape[1]) if last.is_contiguous() else None


def _shaped_as(x: Tensor, y: Tensor, rows: Tensor | None) -> Tensor:
    return y if rows is None else y.view(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)


class _WhitenBatch(torch.autograd.Function):
    """Whitening whose gradient takes two passes over x and dy: sums of products, then dx."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        stats = quaternion_moments(x)
        mean, cov = stats[0].flatten(), stats[1:]
        ctx.save_for_backward(x, gamma, stats)
        ctx.eps = eps
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        return quaternion_whiten(x, mean, cov, gamma, beta, eps), stats

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None
        x, gamma, stats = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives need the statistics as a function of x
            stats = quaternion_moments(x)
        mean, cov = stats[0].flatten(), stats[1:]
        sums = quaternion_whiten_sums(dy, x, mean, cov, ctx.eps)
        needs_dx, needs_dgamma, needs_dbeta, _ = ctx.needs_input_grad
        return (
            quaternion_whiten_dx(dy, x, mean, cov, gamma, sums, ctx.eps) if needs_dx else None,
            sums[1:] if needs_dgamma else None,
            sums[0].flatten() if needs_dbeta else None,
            None,
        )
