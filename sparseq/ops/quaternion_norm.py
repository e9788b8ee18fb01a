"""`quaternion_norm`: an affine map of each quaternion channel, and sums for batch normalization.

Features x (N, 4 C, ...) are stored in four blocks [r | i | j | k] of channels. With the components
of a quaternion channel as a vector of 4,

    y = M (x - s) + b + K z                                            quaternion_norm
    m = mean of x,  V = mean of (x - m) (x - m)^T                      quaternion_moments
    sum of dy,  sum of dy (x - s)^T                                    quaternion_cross

over the batch and all positions. Their gradients are the same three ops: dx = M^T dy;
dx = (dm + (dV + dV^T) (x - m)) / n; so they differentiate to any order. Vectors are (4 C) in four
blocks, matrices (4, 4, C), sums (5, 4, C) with the vector first; all are float32, or float64 for
float64 features. Autocast does not change any dtype.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._calls import below_autograd
from sparseq.ops._channel_matrices import transposed_product
from sparseq.ops._dtypes import check_operand
from sparseq.ops._inputs import takes_dense_tensors


@takes_dense_tensors
def quaternion_norm(
    x: Tensor,
    matrix: Tensor,
    center: Tensor | None = None,
    bias: Tensor | None = None,
    z: Tensor | None = None,
    z_matrix: Tensor | None = None,
) -> Tensor:
    """y = M (x - s) + b + K z for each quaternion channel, at every position.

    Args:
        x: (N, 4 C, ...), floating point.
        matrix: M (4, 4, C), of dtype sums_dtype(x), like all other arguments but z.
        center: s (4 C), or None for 0.
        bias: b (4 C), or None for 0.
        z: features to be added, of x's shape and dtype, or None.
        z_matrix: K (4, 4, C), exactly if z is not None.

    Returns:
        x's shape and dtype, contiguous.

    Raises:
        ValueError: shapes or dtypes that do not match.
    """
    _check_norm(x, center, matrix, bias, z, z_matrix)
    return _NORM(x, center, matrix, bias, z, z_matrix)


def _check_norm(
    x: Tensor,
    center: Tensor | None,
    matrix: Tensor,
    bias: Tensor | None,
    z: Tensor | None,
    z_matrix: Tensor | None,
) -> None:
    channels, sums = check_features("quaternion_norm", x), sums_dtype(x)
    vector, square = (4 * channels,), (4, 4, channels)
    check_operand("quaternion_norm", "matrix", matrix, square, sums)
    check_operand("quaternion_norm", "center", center, vector, sums)
    check_operand("quaternion_norm", "bias", bias, vector, sums)
    check_operand("quaternion_norm", "z_matrix", z_matrix, square, sums)
    if (z is None) != (z_matrix is None):
        require(False, "quaternion_norm", "z_matrix", "must be passed together with z", "only one")
    check_operand("quaternion_norm", "z", z, x.shape, x.dtype)


@takes_dense_tensors
def quaternion_moments(x: Tensor) -> Tensor:
    """(5, 4, C): the mean m, then the covariance V of each quaternion channel, with divisor n.

    Args:
        x: (N, 4 C, ...), floating point; the result is 0 if x is empty.

    Raises:
        ValueError: x has another shape.
    """
    check_features("quaternion_moments", x)
    return _MOMENTS(x)


@takes_dense_tensors
def quaternion_cross(dy: Tensor, x: Tensor, center: Tensor | None = None) -> Tensor:
    """(5, 4, C): sums of dy, then of dy_a (x_b - s_b), for each quaternion channel.

    Args:
        dy, x: (N, 4 C, ...), floating point, of the same shape and dtype.
        center: s (4 C), of dtype sums_dtype(x), or None for 0.

    Raises:
        ValueError: shapes or dtypes that do not match.
    """
    _check_cross(dy, x, center)
    return _CROSS(dy, x, center)


def _check_cross(dy: Tensor, x: Tensor, center: Tensor | None) -> None:
    channels = check_features("quaternion_cross", x)
    check_operand("quaternion_cross", "dy", dy, x.shape, x.dtype)
    check_operand("quaternion_cross", "center", center, (4 * channels,), sums_dtype(x))


def sums_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the vectors, matrices and sums that belong to features x."""
    return torch.promote_types(x.dtype, torch.float32)


def check_features(op: str, x: Tensor) -> int:
    """The number of quaternion channels C; ValueError unless x is (N, 4 C, ...)."""
    if x.dim() < 2 or x.shape[1] % 4:
        require(False, op, "x", "must be features (N, 4 C, ...)", tuple(x.shape))
    return x.shape[1] // 4


def _blocks(x: Tensor) -> Tensor:
    """(N, 4 C, ...) as (N, 4, C, positions), in the dtype of the sums."""
    return x.reshape(x.shape[0], 4, x.shape[1] // 4, math.prod(x.shape[2:])).to(sums_dtype(x))


def quaternion_norm_reference(
    x: Tensor,
    center: Tensor | None,
    matrix: Tensor,
    bias: Tensor | None,
    z: Tensor | None,
    z_matrix: Tensor | None,
) -> Tensor:
    """Plain torch: one small dense product for each channel."""
    parts = _blocks(x) if center is None else _blocks(x) - center.view(4, -1, 1)
    y = torch.einsum("abc,nbcs->nacs", matrix, parts)
    if bias is not None:
        y = y + bias.view(4, -1, 1)
    if z is not None and z_matrix is not None:
        y = y + torch.einsum("abc,nbcs->nacs", z_matrix, _blocks(z))
    return y.reshape(x.shape).to(x.dtype)


def quaternion_norm_moments_reference(x: Tensor) -> Tensor:
    """Plain torch: the mean, then the products of the centered components."""
    parts = _blocks(x)
    count = max(parts.shape[0] * parts.shape[3], 1)
    mean = parts.sum((0, 3)) / count
    centered = parts - mean[:, :, None]
    return torch.cat([mean[None], torch.einsum("nacs,nbcs->abc", centered, centered) / count])


def quaternion_norm_cross_reference(dy: Tensor, x: Tensor, center: Tensor | None) -> Tensor:
    """Plain torch: the sum, then one small dense product for each channel."""
    grad = _blocks(dy)
    centered = _blocks(x) if center is None else _blocks(x) - center.view(4, -1, 1)
    return torch.cat([grad.sum((0, 3))[None], torch.einsum("nacs,nbcs->abc", grad, centered)])


def _fake_norm(x: Tensor, *others: Any) -> Tensor:
    _check_norm(x, *others)
    return x.new_empty(x.shape)


def _fake_moments(x: Tensor) -> Tensor:
    check_features("quaternion_moments", x)
    return x.new_empty((5, 4, x.shape[1] // 4), dtype=sums_dtype(x))


def _fake_cross(dy: Tensor, x: Tensor, center: Tensor | None) -> Tensor:
    _check_cross(dy, x, center)
    return _fake_moments(x)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        center: Tensor | None,
        matrix: Tensor,
        bias: Tensor | None,
        z: Tensor | None,
        z_matrix: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, center, matrix, z, z_matrix)
        with below_autograd():
            return _NORM(x, center, matrix, bias, z, z_matrix)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, center, matrix, z, z_matrix = ctx.saved_tensors
        need_x, need_center, need_matrix, need_bias, need_z, need_z_matrix = ctx.needs_input_grad
        dx = dcenter = dmatrix = dbias = dz = dz_matrix = None
        if need_x:
            dx = _NORM(dy, None, matrix.transpose(0, 1), None, None, None)
        if need_center or need_matrix or need_bias:
            sums = _CROSS(dy, x, center)
            dcenter = -transposed_product(matrix, sums[0]) if need_center else None
            dmatrix = sums[1:] if need_matrix else None
            dbias = sums[0].flatten() if need_bias else None
        if need_z:
            dz = _NORM(dy, None, z_matrix.transpose(0, 1), None, None, None)
        if need_z_matrix:
            dz_matrix = _CROSS(dy, z, None)[1:]
        return dx, dcenter, dmatrix, dbias, dz, dz_matrix


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with below_autograd():
            stats = _MOMENTS(x)
        ctx.save_for_backward(x, stats)
        return stats

    @staticmethod
    def backward(ctx: Any, dstats: Tensor) -> Tensor:
        x, stats = ctx.saved_tensors
        scaled = dstats / max(x.numel() // max(x.shape[1], 1), 1)
        matrix = scaled[1:] + scaled[1:].transpose(0, 1)
        return _NORM(x, stats[0].flatten(), matrix, scaled[0].flatten(), None, None)


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dy: Tensor, x: Tensor, center: Tensor | None) -> Tensor:
        ctx.save_for_backward(dy, x, center)
        with below_autograd():
            return _CROSS(dy, x, center)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dy, x, center = ctx.saved_tensors
        need_dy, need_x, need_center = ctx.needs_input_grad
        matrix = grad[1:]
        return (
            _NORM(x, center, matrix, grad[0].flatten(), None, None) if need_dy else None,
            _NORM(dy, None, matrix.transpose(0, 1), None, None, None) if need_x else None,
            -transposed_product(matrix, _CROSS(dy, x, center)[0]) if need_center else None,
        )


_NORM = declare(
    "quaternion_norm(Tensor x, Tensor? center, Tensor matrix, Tensor? bias, Tensor? z, "
    "Tensor? z_matrix) -> Tensor",
    quaternion_norm_reference,
    _fake_norm,
    _Norm,
    autocast=False,
)
_MOMENTS = declare(
    "quaternion_norm_moments(Tensor x) -> Tensor",
    quaternion_norm_moments_reference,
    _fake_moments,
    _Moments,
    autocast=False,
)
_CROSS = declare(
    "quaternion_norm_cross(Tensor dy, Tensor x, Tensor? center) -> Tensor",
    quaternion_norm_cross_reference,
    _fake_cross,
    _Cross,
    autocast=False,
)
