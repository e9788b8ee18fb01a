"""Whitening of quaternion channels, by the statistics of a batch or by given ones.

    y = gamma W (x - m) + beta,   W = L^-1,   V + eps 1 = L L^T

with mean m and covariance V of the four components of each channel; differentiable to any order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseq.ops.quaternion_norm import (
    factor_gradient,
    inverse_cholesky,
    matmul,
    quaternion_cross,
    quaternion_moments,
    quaternion_norm,
    transposed_product,
)

# channels from which features with their channels last are taken as they lie
LAST_CHANNELS = 16


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
    matrix = _matrix(gamma, inverse_cholesky(cov, eps))
    return _shaped_as(x, quaternion_norm(x if rows is None else rows, matrix, mean, beta), rows)


def _matrix(gamma: Tensor | None, inverse: Tensor) -> Tensor:
    return inverse if gamma is None else matmul(gamma, inverse)


def _channels_last_rows(x: Tensor) -> Tensor | None:
    """(N * positions, 4 C), a view, if x has its channels last and enough of them."""
    if x.dim() == 2 or x.is_contiguous() or x.shape[1] < 4 * LAST_CHANNELS:
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
        inverse = inverse_cholesky(stats[1:], eps)
        ctx.save_for_backward(x, gamma, stats, inverse)
        ctx.eps = eps
        ctx.mark_non_differentiable(stats)
        return quaternion_norm(x, _matrix(gamma, inverse), stats[0].flatten(), beta), stats

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Any):  # type: ignore[override]
        x, gamma, stats, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second gradient goes through the statistics again
            stats = quaternion_moments(x)
            inverse = inverse_cholesky(stats[1:], ctx.eps)
        mean = stats[0].flatten()
        sums = quaternion_cross(dy, x, mean)
        dmatrix = sums[1:]
        dgamma = matmul(dmatrix, inverse.transpose(0, 1)) if ctx.needs_input_grad[1] else None
        dbeta = sums[0].flatten() if ctx.needs_input_grad[2] else None
        if not ctx.needs_input_grad[0]:
            return None, dgamma, dbeta, None
        share = 1 / max(x.numel() // max(x.shape[1], 1), 1)
        dinverse = dmatrix if gamma is None else matmul(gamma.transpose(0, 1), dmatrix)
        matrix = _matrix(gamma, inverse)
        dx = quaternion_norm(
            x,
            factor_gradient(dinverse, inverse) * (2 * share),
            mean,
            transposed_product(matrix, sums[0]) * -share,
            dy,
            matrix.transpose(0, 1),
        )
        return dx, dgamma, dbeta, None
