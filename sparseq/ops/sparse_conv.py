"""`sparse_conv`: a convolution with a sparse weight, its transpose and its gradients.

    y[n, o, j] = b[o] + sum over entries p = (o; c, t) of values[p] * x[n, g C/G + c, s j + d t - P]

j and t have 1 to 3 spatial dimensions, s is the stride, d the dilation, P the padding (with zeros),
and g the group of o among G. The pattern is the CSR pattern of `weight.flatten(1)`, a matrix of
(out channels, in channels / G * taps). `transposed` is the gradient in x (and the transposed
convolution); the gradient in the values, `sparse_conv_dv`, is sampled at the kept entries only. No
dense gradient and no im2col matrix is ever formed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._pattern import PatternLike, pattern_list, row_indices
from sparseq.ops._patterned import product_function, sampled_function
from sparseq.ops.geometry import check_geometry, check_places, out_sizes
from sparseq.ops.spmm import dense_matrix

CONV = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class ConvGeometry(NamedTuple):
    """The geometry of a convolution; each tuple has one integer per spatial dimension.

    Attributes:
        kernel_size, stride, padding, dilation: as in `F.conv2d`.
        output_padding: as in `F.conv_transpose2d`, below the stride; only used when transposed.
        groups: divides both numbers of channels.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int = 1

    @classmethod
    def of(
        cls,
        kernel_size: Sequence[int],
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> ConvGeometry:
        """With the same stride, padding and dilation in every dimension."""
        size = tuple(kernel_size)
        same = [(setting,) * len(size) for setting in (stride, padding, dilation, 0)]
        return cls(size, same[0], same[1], same[2], same[3], groups)

    @classmethod
    def from_flat(cls, flat: Sequence[int]) -> ConvGeometry:
        """The inverse of `flat`."""
        dims = len(flat) // 5
        if len(flat) % 5 != 1 or not 1 <= dims <= 3:
            rule = "must hold five numbers per dimension and the groups"
            require(False, "sparse_conv", "geometry", rule, len(flat))
        parts = [tuple(flat[start * dims : (start + 1) * dims]) for start in range(5)]
        return cls(parts[0], parts[1], parts[2], parts[3], parts[4], flat[-1])

    def flat(self) -> list[int]:
        """All fields as one list of 5 dims + 1 integers, the op's `geometry`."""
        return [setting for part in self[:5] for setting in part] + [self.groups]

    def check(self, op: str) -> None:
        """ValueError that names the op unless all numbers are in range."""
        check_geometry(op, self.kernel_size, self.stride, self.padding, self.dilation)
        extra = zip(self.output_padding, self.stride, strict=True)
        if self.groups < 1 or not all(0 <= e < s for e, s in extra):
            rule = "must have groups from 1, and output_padding from 0 and below the stride"
            require(False, op, "geometry", rule, (self.groups, self.output_padding))

    @property
    def taps(self) -> int:
        """Number of positions of the kernel."""
        return math.prod(self.kernel_size)

    def output_size(self, size: Sequence[int]) -> list[int]:
        """Spatial sizes of y, for those of x."""
        return out_sizes(size, *self[:4])

    def input_size(self, size: Sequence[int]) -> list[int]:
        """Spatial sizes of the transposed convolution's y, for those of its x."""
        return [
            (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
            for n, k, s, p, d, extra in zip(size, *self[:5], strict=True)
        ]

    def transposed_to(self, size: Sequence[int], output: Sequence[int]) -> ConvGeometry:
        """With the output_padding by which the transpose of a y of `output` has the size `size`."""
        smallest = self._replace(output_padding=(0,) * len(self.kernel_size)).input_size(output)
        extra = [
            int(wanted - least) if s > 1 else 0
            for wanted, least, s in zip(size, smallest, self.stride, strict=True)
        ]
        return self._replace(output_padding=tuple(extra))


def sparse_conv(
    x: Tensor,
    values: Tensor,
    pattern: PatternLike,
    bias: Tensor | None,
    geometry: ConvGeometry,
    transposed: bool = False,
) -> Tensor:
    """Sparse convolution over 1 to 3 spatial dimensions.

    Args:
        x: (N, C, *spatial), floating point; (N, O, *spatial) when transposed.
        values: (nnz), the kept weights in CSR order, of x's dtype.
        pattern: a `CSRPattern` of the (O, C / groups * taps) matrix, or its row_ptr, col_idx,
            row_ptr_t, col_idx_t, perm (int32), which are then checked at every call.
        bias: (O) or None; (C) when transposed.
        geometry: kernel size, stride, padding, dilation, groups.
        transposed: run the transposed convolution, which is the gradient in x.

    Returns:
        (N, O, *spatial'), or (N, C, *spatial') when transposed; contiguous, x's dtype.

    Raises:
        ValueError: shapes or dtypes that do not match.
    """
    tensors = pattern_list("sparse_conv", pattern)
    _check(x, values, bias, tensors, transposed, geometry)
    return _SPARSE_CONV(x, values, bias, tensors, transposed, geometry.flat())


def _check(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    pattern: list[Tensor],
    transposed: bool,
    geometry: ConvGeometry,
) -> None:
    geometry.check("sparse_conv")
    out_channels, in_channels = channels_of(pattern, geometry)[:: -1 if transposed else 1]
    dims = len(geometry.kernel_size)
    if x.dim() != dims + 2 or x.shape[1] != in_channels:
        rule = f"must be (N, {in_channels}) with {dims} spatial dimensions"
        require(False, "sparse_conv", "x", rule, tuple(x.shape))
    if values.shape != pattern[1].shape:
        rule = f"must have one entry for each of the {pattern[1].shape[0]} column ids"
        require(False, "sparse_conv", "values", rule, tuple(values.shape))
    if bias is not None and bias.shape != (out_channels,):
        rule = f"must have shape ({out_channels},)"
        require(False, "sparse_conv", "bias", rule, tuple(bias.shape))
    if x.dtype != values.dtype or (bias is not None and bias.dtype != values.dtype):
        refuse_dtypes("sparse_conv", "values", {"x": x, "bias": bias, "values": values})
    size = (geometry.input_size if transposed else geometry.output_size)(x.shape[2:])
    if any(n < 1 for n in size):
        rule = "must be large enough for the kernel"
        require(False, "sparse_conv", "x", rule, tuple(x.shape))
    check_places("sparse_conv", size if transposed else x.shape[2:], geometry.padding)


def _check_dv(dy: Tensor, x: Tensor, pattern: list[Tensor], geometry: ConvGeometry) -> None:
    op, dims = "sparse_conv_dv", len(geometry.kernel_size)
    geometry.check(op)
    out_channels, in_channels = channels_of(pattern, geometry)
    if x.dim() != dims + 2 or x.shape[1] != in_channels:
        rule = f"must be (N, {in_channels}) with {dims} spatial dimensions"
        require(False, op, "x", rule, tuple(x.shape))
    check_places(op, x.shape[2:], geometry.padding)
    shape = (x.shape[0], out_channels, *geometry.output_size(x.shape[2:]))
    if dy.shape != shape:
        require(False, op, "dy", f"must have shape {shape}", tuple(dy.shape))
    if x.dtype != dy.dtype:
        refuse_dtypes(op, "dy", {"x": x, "dy": dy})


def channels_of(pattern: Sequence[Tensor], geometry: ConvGeometry) -> tuple[int, int]:
    """(out channels, in channels); ValueError if pattern and geometry do not match."""
    rows, columns = pattern[0].shape[0] - 1, pattern[2].shape[0] - 1
    if columns % geometry.taps or rows % geometry.groups:
        rule = f"must have {geometry.groups} groups of rows and {geometry.taps} taps per channel"
        require(False, "sparse_conv", "pattern", rule, (rows, columns))
    return rows, columns // geometry.taps * geometry.groups


def conv_weight(values: Tensor, pattern: Sequence[Tensor], kernel_size: Sequence[int]) -> Tensor:
    """The (O, C / groups, *kernel_size) weight, zeros elsewhere; differentiable in the values."""
    matrix = dense_matrix(values, pattern)
    return matrix.view(matrix.shape[0], -1, *kernel_size)


def sparse_conv_reference(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    pattern: list[Tensor],
    transposed: bool,
    geometry: list[int],
) -> Tensor:
    """Plain torch: scatter the values into the dense weight, then one dense convolution."""
    kernel, stride, padding, dilation, extra, groups = ConvGeometry.from_flat(geometry)
    weight, index = conv_weight(values, pattern, kernel), len(kernel) - 1
    y: Tensor
    if transposed:
        y = CONV_TRANSPOSE[index](x, weight, bias, stride, padding, extra, groups, dilation)
    else:
        y = CONV[index](x, weight, bias, stride, padding, dilation, groups)
    return y.contiguous()


def sparse_conv_dv_reference(
    dy: Tensor, x: Tensor, pattern: list[Tensor], geometry: list[int]
) -> Tensor:
    """Plain torch: the dense gradient, sampled at the entries of the pattern."""
    kernel, stride, padding, dilation, _, groups = ConvGeometry.from_flat(geometry)
    extra = (0,) * len(kernel)  # of the transpose only
    weight = x.new_zeros(1).expand(dy.shape[1], x.shape[1] // groups, *kernel)
    full: Tensor = torch.ops.aten.convolution_backward(
        dy, x, weight, None, stride, padding, dilation, False, extra, groups, [False, True, False]
    )[1]
    return full.flatten(1)[row_indices(pattern[0], pattern[1]), pattern[1].long()]


def _fake(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    pattern: list[Tensor],
    transposed: bool,
    geometry: list[int],
) -> Tensor:
    conv = ConvGeometry.from_flat(geometry)
    _check(x, values, bias, pattern, transposed, conv)
    channels = channels_of(pattern, conv)[int(transposed)]
    size = (conv.input_size if transposed else conv.output_size)(x.shape[2:])
    return x.new_empty((x.shape[0], channels, *size))


def _fake_dv(dy: Tensor, x: Tensor, pattern: list[Tensor], geometry: list[int]) -> Tensor:
    _check_dv(dy, x, pattern, ConvGeometry.from_flat(geometry))
    return dy.new_empty(pattern[1].shape[0])


def _transposed_settings(
    settings: Sequence[list[int]], dy: Tensor, x: Tensor
) -> Sequence[list[int]]:
    (geometry,) = settings
    return (ConvGeometry.from_flat(geometry).transposed_to(x.shape[2:], dy.shape[2:]).flat(),)


_SPARSE_CONV = declare(
    "sparse_conv(Tensor x, Tensor values, Tensor? bias, Tensor[] pattern, bool transposed,"
    " int[] geometry) -> Tensor",
    sparse_conv_reference,
    _fake,
    product_function(
        "sparse_conv", "sparse_conv_dv", features=1, transposed_settings=_transposed_settings
    ),
)
declare(
    "sparse_conv_dv(Tensor dy, Tensor x, Tensor[] pattern, int[] geometry) -> Tensor",
    sparse_conv_dv_reference,
    _fake_dv,
    sampled_function("sparse_conv_dv", "sparse_conv", transposed_settings=_transposed_settings),
)
