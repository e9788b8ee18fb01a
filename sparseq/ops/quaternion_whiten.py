"""`quaternion_whiten`: each quaternion channel whitened by its mean and covariance.

Features x (N, 4 C, ...) are stored in four blocks [r | i | j | k] of channels. With the components
of a quaternion channel as a vector of 4, its mean m and covariance V,

    W = L^-1  with  (V + V^T) / 2 + eps 1 = L L^T                      inverse_cholesky
    y = gamma W (x - m) + beta                                         quaternion_whiten
    dbeta = sum of dy,  dgamma = sum of dy (x - m)^T W^T               quaternion_whiten_sums

over the batch and all positions. If m and V are the statistics of these n values themselves,

    dx = (gamma W)^T (dy - dbeta / n) - W^T (P + P^T) W (x - m) / n    quaternion_whiten_dx

with P the lower triangle of gamma^T dgamma with half its diagonal. Vectors are (4 C) in four
blocks, matrices (4, 4, C), sums (5, 4, C) with the vector first; all are float32, or float64 for
float64 features. Autocast does not change any dtype. All ops differentiate to any order.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparseq.ops._backend import declare
from sparseq.ops._calls import below_autograd
from sparseq.ops._channel_matrices import factor_gradient, matmul, transposed_product
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops._whiten_checks import check_dx, check_factor, check_sums, check_whiten
from sparseq.ops.quaternion_norm import (
    quaternion_norm,
    quaternion_norm_cross_reference,
    quaternion_norm_reference,
    sums_dtype,
)


@takes_dense_tensors
def quaternion_whiten(
    x: Tensor,
    mean: Tensor,
    cov: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = gamma W (x - m) + beta for each quaternion channel, at every position.

    Args:
        x: (N, 4 C, ...), floating point.
        mean: m (4 C), of dtype sums_dtype(x), like all following tensors.
        cov: V (4, 4, C), positive semidefinite.
        gamma: (4, 4, C), or None for the identity.
        beta: (4 C), or None for 0.
        eps: added to V's diagonal; positive unless V is positive definite.

    Returns:
        x's shape and dtype, contiguous.

    Raises:
        ValueError: shapes or dtypes that do not match.

    Source: Gaudet & Maida 2018, "Deep Quaternion Networks", section 3.4.
    """
    check_whiten(x, mean, cov, gamma, beta)
    return _WHITEN(x, mean, cov, gamma, beta, eps)


@takes_dense_tensors
def quaternion_whiten_sums(
    dy: Tensor, x: Tensor, mean: Tensor, cov: Tensor, eps: float = 1e-5
) -> Tensor:
    """(5, 4, C): dbeta, then dgamma, of `quaternion_whiten` for the gradient dy of its result.

    Args:
        dy, x: (N, 4 C, ...), floating point, of the same shape and dtype.
        mean, cov, eps: as for `quaternion_whiten`.

    Raises:
        ValueError: shapes or dtypes that do not match.
    """
    check_sums(dy, x, mean, cov)
    return _SUMS(dy, x, mean, cov, eps)


@takes_dense_tensors
def quaternion_whiten_dx(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    cov: Tensor,
    gamma: Tensor | None,
    sums: Tensor,
    eps: float = 1e-5,
) -> Tensor:
    """Gradient of `quaternion_whiten` in x, if mean and cov are the statistics of x.

    Args:
        dy, x: (N, 4 C, ...), floating point, of the same shape and dtype.
        mean, cov, gamma, eps: as for `quaternion_whiten`.
        sums: the result of `quaternion_whiten_sums`, (5, 4, C).

    Returns:
        x's shape and dtype, contiguous.

    Raises:
        ValueError: shapes or dtypes that do not match.
    """
    check_dx(dy, x, mean, cov, gamma, sums)
    return _DX(dy, x, mean, cov, gamma, sums, eps)


@takes_dense_tensors
def inverse_cholesky(cov: Tensor, eps: float) -> Tensor:
    """(4, 4, C): W = L^-1, lower triangular, of (V + V^T) / 2 + eps 1 = L L^T.

    A pivot of L below eps, which can only be due to rounding, is replaced by eps.

    Args:
        cov: V (4, 4, C), positive semidefinite, float32 or float64.
        eps: positive unless V is positive definite.

    Raises:
        ValueError: cov has another shape or dtype.
    """
    check_factor(cov)
    return _FACTOR(cov, eps)


def _scaled(gamma: Tensor | None, matrix: Tensor) -> Tensor:
    return matrix if gamma is None else matmul(gamma, matrix)


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.transpose(0, 1)


def quaternion_whiten_reference(
    x: Tensor, mean: Tensor, cov: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> Tensor:
    """Plain torch: the factor, then one small dense product for each channel."""
    matrix = _scaled(gamma, quaternion_whiten_factor_reference(cov, eps))
    return quaternion_norm_reference(x, mean, matrix, beta, None, None)


def quaternion_whiten_sums_reference(
    dy: Tensor, x: Tensor, mean: Tensor, cov: Tensor, eps: float
) -> Tensor:
    """Plain torch: the sums, then W for all channels at once."""
    sums = quaternion_norm_cross_reference(dy, x, mean)
    inverse = quaternion_whiten_factor_reference(cov, eps)
    return torch.cat([sums[:1], matmul(sums[1:], inverse.transpose(0, 1))])


def quaternion_whiten_dx_reference(
    dy: Tensor, x: Tensor, mean: Tensor, cov: Tensor, gamma: Tensor | None, sums: Tensor, eps: float
) -> Tensor:
    """Plain torch: the two matrices, then their affine map of x and dy."""
    share = 1 / max(x.numel() // max(x.shape[1], 1), 1)
    inverse = quaternion_whiten_factor_reference(cov, eps)
    outer = _scaled(gamma, inverse)
    inner = factor_gradient(_scaled(_transposed(gamma), sums[1:]), inverse) * (2 * share)
    bias = transposed_product(outer, sums[0]) * -share
    return quaternion_norm_reference(x, mean, inner, bias, dy, outer.transpose(0, 1))


def quaternion_whiten_factor_reference(cov: Tensor, eps: float) -> Tensor:
    """Plain torch: Cholesky and forward substitution, for all channels at once."""
    cov = (cov + cov.transpose(0, 1)) / 2
    lower: list[list[Tensor]] = [[], [], [], []]
    inverse: list[list[Tensor]] = []
    for i in range(4):
        for j in range(i):
            dot = sum((lower[i][k] * lower[j][k] for k in range(j)), start=cov.new_zeros(()))
            lower[i].append((cov[i, j] - dot) * inverse[j][j])
        pivot = cov[i, i] + eps - sum(entry * entry for entry in lower[i])
        scale = pivot.clamp(min=eps).rsqrt()
        inverse.append([torch.zeros_like(scale)] * 4)
        inverse[i][i] = scale
        for j in range(i):
            inverse[i][j] = -scale * sum(lower[i][k] * inverse[k][j] for k in range(j, i))
    return torch.stack([torch.stack(row) for row in inverse])


def _fake_whiten(x: Tensor, *rest: Any) -> Tensor:
    check_whiten(x, *rest[:-1])
    return x.new_empty(x.shape)


def _fake_dx(dy: Tensor, x: Tensor, *rest: Any) -> Tensor:
    check_dx(dy, x, *rest[:-1])
    return x.new_empty(x.shape)


def _fake_sums(dy: Tensor, x: Tensor, *rest: Any) -> Tensor:
    check_sums(dy, x, *rest[:-1])
    return x.new_empty((5, 4, x.shape[1] // 4), dtype=sums_dtype(x))


def _fake_factor(cov: Tensor, eps: float) -> Tensor:
    check_factor(cov)
    return cov.new_empty(cov.shape)


class _Whiten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, _, ctx.eps = arguments
        ctx.save_for_backward(*tensors)
        with below_autograd():
            return _WHITEN(*arguments)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, cov, gamma = ctx.saved_tensors
        need_x, need_mean, need_cov, need_gamma, need_beta, _ = ctx.needs_input_grad
        inverse = inverse_cholesky(cov, ctx.eps)
        matrix = _scaled(gamma, inverse)
        dx = quaternion_norm(dy, matrix.transpose(0, 1)) if need_x else None
        dmean = dcov = dgamma = dbeta = None
        if need_mean or need_cov or need_gamma or need_beta:
            sums = _SUMS(dy, x, mean, cov, ctx.eps)
            dmean = -transposed_product(matrix, sums[0]) if need_mean else None
            if need_cov:
                dcov = factor_gradient(_scaled(_transposed(gamma), sums[1:]), inverse)
            dgamma = sums[1:] if need_gamma else None
            dbeta = sums[0].flatten() if need_beta else None
        return dx, dmean, dcov, dgamma, dbeta, None


class _Sums:
    """Reached by second gradients only: torch differentiates the plain formula."""

    @staticmethod
    def apply(*arguments: Any) -> Tensor:
        check_sums(*arguments[:-1])
        return quaternion_whiten_sums_reference(*arguments)


class _Dx:
    """Like `_Sums`."""

    @staticmethod
    def apply(*arguments: Any) -> Tensor:
        check_dx(*arguments[:-1])
        return quaternion_whiten_dx_reference(*arguments)


class _Factor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cov: Tensor, eps: float) -> Tensor:
        with below_autograd():
            inverse = _FACTOR(cov, eps)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        inverse = ctx.saved_tensors[0]
        return factor_gradient(matmul(grad, inverse.transpose(0, 1)), inverse), None


_declare = partial(declare, autocast=False)  # a normalization keeps its dtypes
_WHITEN = _declare(
    "quaternion_whiten(Tensor x, Tensor mean, Tensor cov, Tensor? gamma, Tensor? beta, float eps) "
    "-> Tensor",
    quaternion_whiten_reference,
    _fake_whiten,
    _Whiten,
)
_SUMS = _declare(
    "quaternion_whiten_sums(Tensor dy, Tensor x, Tensor mean, Tensor cov, float eps) -> Tensor",
    quaternion_whiten_sums_reference,
    _fake_sums,
    _Sums,
)
_DX = _declare(
    "quaternion_whiten_dx(Tensor dy, Tensor x, Tensor mean, Tensor cov, Tensor? gamma, "
    "Tensor sums, float eps) -> Tensor",
    quaternion_whiten_dx_reference,
    _fake_dx,
    _Dx,
)
_FACTOR = _declare(
    "quaternion_whiten_factor(Tensor cov, float eps) -> Tensor",
    quaternion_whiten_factor_reference,
    _fake_factor,
    _Factor,
)
