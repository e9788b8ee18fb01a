"""`sparse_conv_chain`: consecutive sparse convolutions in one kernel.

    x_0 = x,   x_l = pool_l(f_l(conv_l(x_(l-1)) + b_l)),   y = x_L

conv_l is a 2-d convolution as in `sparse_conv`, f_l the identity or max(0, .), and pool_l the
maximum of each p_l x p_l window with stride p_l (p_l = 1: none). Intermediate results are never
copied back to the layout of x, and bias, ReLU and pooling are part of the epilogue. It is meant for
inference: gradients are computed layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops._linear import multiply_adds
from sparseq.ops._pattern import row_indices
from sparseq.ops.geometry import ConvGeometry, check_places
from sparseq.ops.sparse_conv import (
    channels_of,
    sparse_conv,
    sparse_conv_reference,
)
from sparseq.ops.spmm_chain import PER_MAP, differentiable

GEOMETRY_LENGTH = 11  # integers of `ConvGeometry.flat` in two dimensions


@takes_dense_tensors
def sparse_conv_chain(
    x: Tensor,
    values: Sequence[Tensor],
    biases: Sequence[Tensor],
    patterns: Sequence[Tensor],
    geometries: Sequence[ConvGeometry],
    relu: Sequence[int],
    pool: Sequence[int],
) -> Tensor:
    """Consecutive sparse 2-d convolutions, each with an optional ReLU and max pooling.

    Args:
        x: (N, C, height, width), floating point.
        values: for each of the L convolutions the kept weights (nnz) in CSR order, of x's dtype.
        biases: (O) of each convolution, or an empty tensor for none.
        patterns: row_ptr, col_idx, row_ptr_t, col_idx_t, perm (int32) of the first convolution,
            then of the second, and so on: 5 L tensors. They are checked at every call, unless they
            are those of layers.
        geometries: kernel size, stride, padding, dilation and groups of each.
        relu: for each convolution 1 if max(0, .) follows it, otherwise 0.
        pool: for each convolution the size and stride of the max pooling that follows it, 1 for
            none; incomplete windows are dropped, as in `F.max_pool2d`.

    Returns:
        (N, O, height, width) of the last layer, x's dtype. 16-bit dtypes are rounded once, at the
        end.

    Raises:
        ValueError: lists of different lengths, layers whose shapes do not match x or each other,
            or different dtypes.
    """
    flat = [setting for geometry in geometries for setting in geometry.flat()]
    orders: list[Tensor] = []
    lists = list(values), list(biases), list(patterns), orders, flat, list(relu), list(pool)
    _check(x, *lists)
    return chain_checked(x, *lists)


def _check(
    x: Tensor,
    values: list[Tensor],
    biases: list[Tensor],
    patterns: list[Tensor],
    orders: list[Tensor],
    geometry: list[int],
    relu: list[int],
    pool: list[int],
) -> None:
    count = len(values)
    lengths = [count, len(biases), len(relu), len(pool), len(geometry) / GEOMETRY_LENGTH]
    if not count or set(lengths) != {count} or len(patterns) != PER_MAP * count:
        rule = "must have one entry per convolution, at least one, and five per layer in patterns"
        arguments = "values, biases, relu, pool, geometries, patterns"
        got = f"{', '.join(f'{length:g}' for length in lengths)} and {len(patterns)}"
        require(False, "sparse_conv_chain", arguments, rule, got)
    rule = "must have three for each convolution, or none"
    require(len(orders) in (0, 3 * count), "sparse_conv_chain", "orders", rule, len(orders))
    require(x.dim() == 4, "sparse_conv_chain", "x", "must be (N, C, height, width)", tuple(x.shape))
    shape = list(x.shape[1:])
    for layer in range(count):
        pattern = patterns[PER_MAP * layer : PER_MAP * (layer + 1)]
        conv = _geometry_of(geometry, layer)
        shape = _next_shape(layer, shape, pattern, conv, pool[layer])
        _check_layer(layer, x, values[layer], biases[layer], pattern)
        if orders:
            _check_order(layer, orders[3 * layer : 3 * layer + 3], pattern, conv)


def _geometry_of(geometry: list[int], layer: int) -> ConvGeometry:
    return ConvGeometry.from_flat(geometry[GEOMETRY_LENGTH * layer : GEOMETRY_LENGTH * (layer + 1)])


def _check_order(
    layer: int, order: list[Tensor], pattern: Sequence[Tensor], geometry: ConvGeometry
) -> None:
    rows, nnz = pattern[0].shape[0] - 1, pattern[1].shape[0]
    shapes = [(rows * geometry.taps + 1,), (nnz,), (nnz,)]
    fits = all(t.dtype == torch.int32 and t.shape == s for t, s in zip(order, shapes, strict=True))
    rule = f"must be the tap_order of the pattern of layer {layer}, int32 of shapes {shapes}"
    got = ", ".join(f"{t.dtype} {tuple(t.shape)}" for t in order)
    require(fits, "sparse_conv_chain", "orders", rule, got)


def tap_order(pattern: Sequence[Tensor], geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of each output channel sorted by taps; otherwise the kernel sorts on every call.

    Args:
        pattern: as in `sparse_conv`.
        geometry: geometry of the convolution.

    Returns:
        Three int32 tensors: starts (O * taps + 1), at which the entries of each output channel and
        tap begin; the input channel (nnz) of each entry; and its position in CSR order (nnz).
    """
    row_ptr, col_idx = pattern[0], pattern[1].long()
    rows, taps = row_indices(row_ptr, pattern[1]), geometry.taps
    out_channels, in_channels = channels_of(pattern, geometry)
    group_start = rows // (out_channels // geometry.groups) * (in_channels // geometry.groups)
    key = rows * taps + col_idx % taps
    order = key.argsort(stable=True)
    counts = torch.bincount(key, minlength=out_channels * taps)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    channels = (col_idx // taps + group_start)[order]
    return starts.int(), channels.int(), order.int()


def _next_shape(
    layer: int, shape: list[int], pattern: Sequence[Tensor], geometry: ConvGeometry, pool: int
) -> list[int]:
    """Channels, height and width after a layer; ValueError if it does not accept `shape`."""
    geometry.check("sparse_conv_chain")
    out_channels, in_channels = channels_of(pattern, geometry)
    check_places("sparse_conv_chain", shape[1:], geometry.padding)
    if in_channels != shape[0]:
        rule = f"must accept {shape[0]} channels in layer {layer}"
        require(False, "sparse_conv_chain", "patterns", rule, in_channels)
    require(pool >= 1, "sparse_conv_chain", f"pool[{layer}]", "must be at least 1", pool)
    size = [n // pool for n in geometry.output_size(shape[1:])]
    if min(size) < 1:
        rule = f"must be large enough for the kernel and the pooling of layer {layer}"
        require(False, "sparse_conv_chain", "x", rule, tuple(shape))
    return [out_channels, *size]


def _check_layer(
    layer: int, x: Tensor, values: Tensor, bias: Tensor, pattern: Sequence[Tensor]
) -> None:
    rows, nnz = pattern[0].shape[0] - 1, pattern[1].shape[0]
    if values.shape != (nnz,):
        rule = f"must have one entry for each of the {nnz} column ids"
        require(False, "sparse_conv_chain", f"values[{layer}]", rule, tuple(values.shape))
    if bias.numel() and bias.shape != (rows,):
        rule = f"must be empty or have shape ({rows},)"
        require(False, "sparse_conv_chain", f"biases[{layer}]", rule, tuple(bias.shape))
    if values.dtype != x.dtype or (bias.numel() and bias.dtype != x.dtype):
        tensors = {"x": x, "values": values, "bias": bias if bias.numel() else None}
        refuse_dtypes(f"sparse_conv_chain, layer {layer}", "values", tensors)


def _layer_by_layer(convolve: Callable[..., Tensor], arguments: Sequence[Any]) -> Tensor:
    """The layers of a call, each by `convolve(x, values, bias, pattern, geometry)`."""
    x, values, biases, patterns, _, geometry, relu, pool = arguments
    result: Tensor = x
    for layer, bias in enumerate(biases):
        pattern = patterns[PER_MAP * layer : PER_MAP * (layer + 1)]
        flat = geometry[GEOMETRY_LENGTH * layer : GEOMETRY_LENGTH * (layer + 1)]
        result = convolve(result, values[layer], bias if bias.numel() else None, pattern, flat)
        result = result.relu() if relu[layer] else result
        result = F.max_pool2d(result, pool[layer]) if pool[layer] > 1 else result
    return result


def sparse_conv_chain_reference(
    x: Tensor,
    values: list[Tensor],
    biases: list[Tensor],
    patterns: list[Tensor],
    orders: list[Tensor],
    geometry: list[int],
    relu: list[int],
    pool: list[int],
) -> Tensor:
    """Plain torch: the reference of `sparse_conv`, layer by layer."""

    def convolve(x: Tensor, kept: Tensor, bias: Any, pattern: Any, flat: list[int]) -> Tensor:
        return sparse_conv_reference(x, kept, bias, pattern, False, flat)

    return _layer_by_layer(convolve, (x, values, biases, patterns, orders, geometry, relu, pool))


def _fake(
    x: Tensor,
    values: list[Tensor],
    biases: list[Tensor],
    patterns: list[Tensor],
    orders: list[Tensor],
    geometry: list[int],
    relu: list[int],
    pool: list[int],
) -> Tensor:
    _check(x, values, biases, patterns, orders, geometry, relu, pool)
    _, pooled = _sizes(x.shape[2:], geometry, pool)[-1]
    return x.new_empty((x.shape[0], patterns[-PER_MAP].shape[0] - 1, *pooled))


def _sizes(
    size: Sequence[int], geometry: list[int], pool: list[int]
) -> list[tuple[list[int], list[int]]]:
    """Height and width of each layer's map, before and after its pooling."""
    sizes = []
    for layer, window in enumerate(pool):
        convolved = _geometry_of(geometry, layer).output_size(size)
        size = [n // window for n in convolved]
        sizes.append((convolved, size))
    return sizes


class _LayerByLayer:
    """If a derivative is required, run `sparse_conv` layer by layer, each with its own ones."""

    @staticmethod
    def apply(*args: Any) -> Tensor:
        def convolve(x: Tensor, kept: Tensor, bias: Any, pattern: Any, flat: list[int]) -> Tensor:
            return sparse_conv(x, kept, pattern, bias, ConvGeometry.from_flat(flat))

        _check(*args)
        return _layer_by_layer(convolve, args)

    transformed = apply

    @staticmethod
    def flops(shapes: Sequence[Any], out: Sequence[int]) -> int:
        x, values, _, _, _, geometry, _, pool = shapes
        sizes = _sizes(x[2:], geometry, pool)
        maps = [(x[0], 1, *convolved) for convolved, _ in sizes]
        return sum(multiply_adds(kept, y, features=1) for kept, y in zip(values, maps, strict=True))


# `orders` is the `tap_order` of every layer or empty, `geometry` all `flat` lists.
chain_checked = declare(
    "sparse_conv_chain(Tensor x, Tensor[] values, Tensor[] biases, Tensor[] patterns,"
    " Tensor[] orders, int[] geometry, int[] relu, int[] pool) -> Tensor",
    sparse_conv_chain_reference,
    _fake,
    _LayerByLayer,
    differentiable,
)
