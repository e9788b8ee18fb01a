"""`hamilton_conv`: the quaternion convolution y = W (x) x + b and its two gradients.

Channels are stored in four blocks [r | i | j | k]. As in torch, this is a cross-correlation:

    y[n, o, p] = b[o] + sum over q, t of W[o, q, t] (x) x[n, q, p stride + t dilation - padding]

where o and q index quaternions, t the taps of the kernel and (x) is the Hamilton product of
`sparseq.ops.hamilton`. Groups split the quaternions: group g is the same range in each block.
Both gradients are Hamilton products too (dx with the conjugate transpose W*, dW of dy with x*), so
the three ops differentiate into each other to any order, and dx with W conjugated is the
transposed convolution.

`algorithm` is "16", "8" (Howell & Lafon 1975, see `sparseq.ops.hamilton`) or "auto".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._bilinear import bilinear_functions
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._hamilton_conv_checks import (
    check_forward,
    check_gradient,
    check_pair,
    check_weight,
)
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops.geometry import (
    Sizes,
    check_image,
    geometry_of,
    memory_format_of,
    out_sizes,
    per_dimension,
    transposed_sizes,
)
from sparseq.ops.hamilton import fold_real, real_weight


@takes_dense_tensors
def hamilton_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Tensor:
    """Quaternion convolution over one, two or three dimensions.

    Args:
        x: (n, 4 k, *spatial) or (4 k, *spatial), floating point.
        weight: (4, m, k / groups, *kernel), components r, i, j, k, of x's dtype.
        bias: (4 m) or None.
        stride, padding, dilation: an integer, or one per dimension; x is padded with zeros.
        groups: number of groups of quaternions; divides m and k.
        algorithm: "auto", "8" or "16".

    Returns:
        (n, 4 m, *spatial') or (4 m, *spatial'), x's dtype, channels last if x is.

    Raises:
        ValueError: a shape or dtype that does not match, an invalid setting, an unknown algorithm.
    """
    dims = check_weight("hamilton_conv", weight, groups, algorithm)
    geometry = geometry_of("hamilton_conv", dims, stride, padding, dilation)
    check_forward(x, weight, bias, geometry, groups)
    if x.dim() == dims + 1:
        return _HAMILTON_CONV(x[None], weight, bias, *geometry, groups, algorithm)[0]
    return _HAMILTON_CONV(x, weight, bias, *geometry, groups, algorithm)


@takes_dense_tensors
def hamilton_conv_transpose(
    x: Tensor,
    weight: Tensor,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Tensor:
    """Transposed quaternion convolution: W (x) x of each input pixel is added to its outputs.

    Args:
        x: (n, 4 k, *spatial) or (4 k, *spatial), floating point.
        weight: (4, k, m / groups, *kernel), components r, i, j, k, of x's dtype.
        stride, padding, dilation: those of the convolution that this one transposes.
        output_padding: added to one side of each spatial dimension of the result.
        groups: number of groups of quaternions; divides m and k.
        algorithm: "auto", "8" or "16".

    Returns:
        (n, 4 m, *spatial') or (4 m, *spatial'), spatial' = (spatial - 1) stride - 2 padding
        + dilation (kernel - 1) + output_padding + 1.

    Raises:
        ValueError: a shape or dtype that does not match, an invalid setting, an unknown algorithm.
    """
    op = "hamilton_conv_transpose"
    dims = check_weight(op, weight, groups, algorithm)
    geometry = geometry_of(op, dims, stride, padding, dilation)
    check_image(op, x, 4 * weight.shape[1], dims)
    if x.dtype != weight.dtype:
        refuse_dtypes(op, "weight", {"x": x, "weight": weight})
    extra = per_dimension(op, "output_padding", output_padding, dims)
    size = transposed_sizes(op, x.shape[-dims:], weight.shape[3:], geometry, extra)
    strides_added = [e // s for e, s in zip(extra, geometry[0], strict=True)]
    if any(strides_added):  # zeros after x, which leave less than a stride to be added
        x = F.pad(x, [side for added in reversed(strides_added) for side in (0, added)])
    conjugate = torch.cat([weight[:1], -weight[1:]])
    if x.dim() == dims + 1:
        return _HAMILTON_CONV_DX(x[None], conjugate, size, *geometry, groups, algorithm)[0]
    return _HAMILTON_CONV_DX(x, conjugate, size, *geometry, groups, algorithm)


def real_conv_weight(weight: Tensor, groups: int) -> Tensor:
    """The real weight of the same convolution, for channels in group-major order.

    (4, m, k / groups, *kernel) -> (4 m, 4 k / groups, *kernel): rows and columns of each group
    are its blocks [r | i | j | k]. With one group that is the channel order of x.
    """
    if groups == 1:
        return real_weight(weight)
    grouped = weight.unflatten(1, (groups, -1)).movedim(1, -1)  # the group index acts as a tap
    return real_weight(grouped).movedim(-1, 0).flatten(0, 1)


def fold_real_conv(matrix: Tensor, groups: int) -> Tensor:
    """Adjoint of `real_conv_weight`."""
    if groups == 1:
        return fold_real(matrix)
    grouped = matrix.unflatten(0, (groups, -1)).movedim(0, -1)
    return fold_real(grouped).movedim(-1, 1).flatten(1, 2)


def _regroup(x: Tensor, outer: int, inner: int) -> Tensor:
    """Reorder channels from (outer, inner, rest) to (inner, outer, rest)."""
    if min(outer, inner) == 1:
        return x
    blocks: Tensor = x.unflatten(1, (outer, inner, -1))
    return blocks.transpose(1, 2).flatten(1, 3)


def hamilton_conv_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    """Plain torch: the real weight, then one dense convolution."""
    dims, real = weight.dim() - 3, real_conv_weight(weight, groups)
    settings = stride, padding, dilation, False, [0] * dims, groups
    fused_bias = bias if groups == 1 else None
    y: Tensor = torch.ops.aten.convolution(_regroup(x, 4, groups), real, fused_bias, *settings)
    if groups > 1:
        y = _regroup(y, groups, 4)
        y = y if bias is None else y + bias.view(-1, *[1] * dims)
    return y.contiguous(memory_format=memory_format_of(x))


def hamilton_conv_dx_reference(
    dy: Tensor,
    weight: Tensor,
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    """Plain torch: dx = W* (x) dy; dy (n, 4 m, *out), weight (4, m, k / groups, *kernel), size
    the spatial sizes of x -> (n, 4 k, *size)."""
    real = real_conv_weight(weight, groups)
    x = dy.new_empty(1).expand(dy.shape[0], 4 * weight.shape[2] * groups, *size)
    settings = stride, padding, dilation, False, [0] * len(size), groups, [True, False, False]
    dx, _, _ = torch.ops.aten.convolution_backward(
        _regroup(dy, 4, groups), x, real, None, *settings
    )
    return _regroup(dx, groups, 4).contiguous(memory_format=memory_format_of(dy))


def hamilton_conv_dw_reference(
    dy: Tensor,
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    """Plain torch: dW = sum over pixels of dy (x) x*; dy (n, 4 m, *out), x (n, 4 k, *spatial)
    -> (4, m, k / groups, *kernel)."""
    weight = dy.new_empty(1).expand(dy.shape[1], x.shape[1] // groups, *kernel)
    settings = stride, padding, dilation, False, [0] * len(kernel), groups, [False, True, False]
    _, dw, _ = torch.ops.aten.convolution_backward(
        _regroup(dy, 4, groups), _regroup(x, 4, groups), weight, None, *settings
    )
    return fold_real_conv(dw, groups).contiguous()


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    stride, padding, dilation, groups, algorithm = settings
    dims = check_weight("hamilton_conv", weight, groups, algorithm)
    if x.dim() != dims + 2:
        rule = f"must have {dims} spatial dimensions"
        require(False, "hamilton_conv", "x", rule, tuple(x.shape))
    geometry = geometry_of("hamilton_conv", dims, stride, padding, dilation)
    check_forward(x, weight, bias, geometry, groups)
    sizes = out_sizes(x.shape[2:], weight.shape[3:], *geometry)
    return _empty_like(x, [x.shape[0], 4 * weight.shape[1], *sizes])


def _fake_dx(dy: Tensor, weight: Tensor, size: Sequence[int], *settings: Any) -> Tensor:
    groups, op = settings[3], "hamilton_conv_dx"
    check_weight(op, weight, groups, settings[4])
    channels = (weight.shape[1], weight.shape[2] * groups)
    shape = (dy.shape[0], *check_gradient(op, channels, size, weight.shape[3:], settings))
    check_pair(op, dy, shape, "weight", weight)
    return _empty_like(dy, [dy.shape[0], 4 * weight.shape[2] * groups, *size])


def _fake_dw(dy: Tensor, x: Tensor, kernel: Sequence[int], *settings: Any) -> Tensor:
    groups, op = settings[3], "hamilton_conv_dw"
    if dy.dim() != x.dim() or x.dim() < 3 or x.shape[1] % 4 or dy.shape[1] % 4:
        rule = "must be (n, 4 k, *spatial), and dy of as many dimensions"
        require(False, op, "x", rule, (tuple(x.shape), tuple(dy.shape)))
    channels = (dy.shape[1] // 4, x.shape[1] // 4)
    shape = (x.shape[0], *check_gradient(op, channels, x.shape[2:], kernel, settings))
    check_pair(op, dy, shape, "x", x)
    return dy.new_empty((4, dy.shape[1] // 4, x.shape[1] // 4 // groups, *kernel))


def _empty_like(x: Tensor, shape: Sequence[int]) -> Tensor:
    """An empty tensor of another shape with x's dtype, device and memory format."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


_FUNCTIONS = bilinear_functions("hamilton_conv", spatial=True)
_GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups, str algorithm"
_HAMILTON_CONV = declare(
    f"hamilton_conv(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}) -> Tensor",
    hamilton_conv_reference,
    _fake,
    _FUNCTIONS[0],
)
_HAMILTON_CONV_DX = declare(
    f"hamilton_conv_dx(Tensor dy, Tensor weight, SymInt[] size, {_GEOMETRY}) -> Tensor",
    hamilton_conv_dx_reference,
    _fake_dx,
    _FUNCTIONS[1],
)
declare(
    f"hamilton_conv_dw(Tensor dy, Tensor x, int[] kernel, {_GEOMETRY}) -> Tensor",
    hamilton_conv_dw_reference,
    _fake_dw,
    _FUNCTIONS[2],
)
