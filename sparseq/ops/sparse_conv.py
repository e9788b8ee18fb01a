"""`sparse_conv`: a convolution with a sparse weight, its transpose and its gradients.

    y[n, o, j] = b[o] + sum over entries p = (o; c, t) of values[p] * x[n, g C/G + c, s j + d t - P]

j and t have 1 to 3 spatial dimensions, s is the stride, d the dilation, P the padding (with zeros),
and g the group of o among G. The pattern is the CSR pattern of `weight.flatten(1)`, a matrix of
(out channels, in channels / G * taps). `transposed` is the gradient in x (and the transposed
convolution); the gradient in the values, `sparse_conv_dv`, is sampled at the kept entries only. No
dense gradient and no im2col matrix is ever formed.

Entries that are not stored are never multiplied, so an infinite x makes no NaN under a dropped
weight. The zeros of the padding may be: an infinite weight can make NaN where it reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops._pattern import PatternLike, pattern_list, row_indices
from sparseq.ops._patterned import product_function, sampled_function
from sparseq.ops._stored_entries import Entries, needs_entries, product_of_entries, windows
from sparseq.ops.geometry import ConvGeometry, check_places
from sparseq.ops.spmm import dense_matrix, stored_entries

CONV = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@takes_dense_tensors
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
    if needs_entries(x):
        return _entry_by_entry(x, values, bias, pattern, transposed, geometry)
    kernel, stride, padding, dilation, extra, groups = ConvGeometry.from_flat(geometry)
    weight, index = conv_weight(values, pattern, kernel), len(kernel) - 1
    y: Tensor
    if transposed:
        y = CONV_TRANSPOSE[index](x, weight, bias, stride, padding, extra, groups, dilation)
    else:
        y = CONV[index](x, weight, bias, stride, padding, dilation, groups)
    return y.contiguous()


def _entry_by_entry(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    pattern: list[Tensor],
    transposed: bool,
    geometry: list[int],
) -> Tensor:
    """The entries of each tap times the pixels that it reads."""
    conv = ConvGeometry.from_flat(geometry)
    channels = channels_of(pattern, conv)
    size = (conv.input_size if transposed else conv.output_size)(x.shape[2:])
    wide = torch.float32 if x.element_size() == 2 else x.dtype
    y = x.new_zeros(x.shape[0], channels[int(transposed)], *size, dtype=wide)
    image, output = (y.shape[2:], x.shape[2:]) if transposed else (x.shape[2:], y.shape[2:])
    rows, columns, _ = stored_entries(values, pattern)
    inputs, outputs = channels[1] // conv.groups, channels[0] // conv.groups
    group_start = rows // max(outputs, 1) * inputs
    entries = Entries(rows, group_start + columns // conv.taps, values.to(wide))
    for tap, read, written in windows(image, output, *conv[:4]):
        of_tap = entries.chosen(columns % conv.taps == tap)
        if transposed:
            of_tap, read, written = of_tap.transposed(), written, read
        pixels = x[:, :, *read].movedim(1, -1).to(wide)
        products = product_of_entries(pixels, of_tap, y.shape[1], None)
        y[:, :, *written] += products.movedim(-1, 1)
    if bias is not None:
        y += bias.view(-1, *[1] * len(size))
    return y.to(x.dtype)


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
    sampled_function(
        "sparse_conv_dv", "sparse_conv", features=1, transposed_settings=_transposed_settings
    ),
)
