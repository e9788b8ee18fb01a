"""`sparse_conv_chain`: sparse convolutions one after another, kept in one layout.

    x_0 = x,   x_l = pool_l(f_l(conv_l(x_(l-1)) + b_l)),   y = x_L

conv_l is a 2-d convolution as in `sparse_conv`, f_l the identity or max(0, .), and pool_l the
largest of each square of p_l x p_l pixels (p_l = 1: none). What lies between the layers is never
copied back to the order of x, and bias, ReLU and pooling cost no pass of their own. It is for
inference: gradients are those of the layers taken one by one.
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
from sparseq.ops.sparse_conv import (
    ConvGeometry,
    channels_of,
    sparse_conv,
    sparse_conv_reference,
)
from sparseq.ops.spmm import row_indices
from sparseq.ops.spmm_chain import PER_MAP, differentiable

NUMBERS = 11  # of a geometry in two dimensions


def sparse_conv_chain(
    x: Tensor,
    values: Sequence[Tensor],
    biases: Sequence[Tensor],
    patterns: Sequence[Tensor],
    geometries: Sequence[ConvGeometry],
    relu: Sequence[int],
    pool: Sequence[int],
) -> Tensor:
    """Sparse 2-d convolutions, each with a ReLU and a max pooling where asked, one after another.

    Args:
        x: (N, C, height, width), floating point.
        values: of each of the L convolutions the kept weights (nnz) in CSR order, of x's dtype.
        biases: (O) of each convolution, or an empty tensor for none.
        patterns: row_ptr, col_idx, row_ptr_t, col_idx_t, perm (int32) of the first convolution,
            then of the second, and so on: 5 L tensors.
        geometries: kernel size, stride, padding, dilation and groups of each.
        relu: of each convolution whether max(0, .) follows it.
        pool: of each convolution the side of the squares whose largest pixel is kept, 1 for none;
            rows and columns that fill no square are left out, as in `F.max_pool2d`.

    Returns:
        (N, O, height, width) of the last layer, x's dtype. 16-bit dtypes are rounded once, at the
        end.

    Raises:
        ValueError: lists that differ in length, layers that do not fit x or each other; dtypes
            that differ.
    """
    count = len(values)
    lists = (biases, geometries, relu, pool)
    if not count or any(len(one) != count for one in lists) or len(patterns) != PER_MAP * count:
        sizes = f"{count}, {', '.join(str(len(one)) for one in lists)} and {len(patterns)}"
        rule = "must have an entry for each convolution, at least one, and five of patterns"
        named = "values, biases, geometries, relu, pool, patterns"
        require(False, "sparse_conv_chain", named, rule, sizes)
    require(x.dim() == 4, "sparse_conv_chain", "x", "must be (N, C, height, width)", tuple(x.shape))
    shape = list(x.shape[1:])
    for layer, geometry in enumerate(geometries):
        pattern = patterns[PER_MAP * layer : PER_MAP * (layer + 1)]
        shape = _next_shape(layer, shape, pattern, geometry, pool[layer])
        _check_layer(layer, x, values[layer], biases[layer], pattern)
    numbers = [number for geometry in geometries for number in geometry.numbers()]
    return chain_checked(
        x, list(values), list(biases), list(patterns), [], numbers, list(relu), list(pool)
    )


def tap_order(pattern: Sequence[Tensor], geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of each output channel by taps, which the kernel else finds at every call.

    Args:
        pattern: as in `sparse_conv`.
        geometry: of the convolution.

    Returns:
        int32 starts (O * taps + 1), where those of channel o and tap t begin; the input channel of
        each entry (nnz), and its place in CSR order (nnz).
    """
    row_ptr, col_idx = pattern[0], pattern[1].long()
    rows, taps = row_indices(row_ptr, pattern[1]), geometry.taps
    written, read = channels_of(pattern, geometry)
    group = rows // (written // geometry.groups) * (read // geometry.groups)
    key = rows * taps + col_idx % taps
    order = key.argsort(stable=True)
    counts = torch.bincount(key, minlength=written * taps)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    channels = (col_idx // taps + group)[order]
    return starts.int(), channels.int(), order.int()


def _next_shape(
    layer: int, shape: list[int], pattern: Sequence[Tensor], geometry: ConvGeometry, pool: int
) -> list[int]:
    """Channels, height and width behind a layer; ValueError if it does not take `shape`."""
    written, read = channels_of(pattern, geometry)
    if read != shape[0]:
        rule = f"must take the {shape[0]} channels that come to layer {layer}"
        require(False, "sparse_conv_chain", "patterns", rule, read)
    require(pool >= 1, "sparse_conv_chain", f"pool[{layer}]", "must be at least 1", pool)
    size = [n // pool for n in geometry.output_size(shape[1:])]
    if min(size) < 1:
        rule = f"must be large enough for the kernel and the pooling of layer {layer}"
        require(False, "sparse_conv_chain", "x", rule, tuple(shape))
    return [written, *size]


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
        given = {"x": x, "values": values, "bias": bias if bias.numel() else None}
        refuse_dtypes(f"sparse_conv_chain, layer {layer}", "values", given)


def _one_by_one(one: Callable[..., Tensor], arguments: Sequence[Any]) -> Tensor:
    """The layers of a call through `one(x, values, bias, pattern, geometry)`."""
    x, values, biases, patterns, _, geometry, relu, pool = arguments
    for layer, (kept, bias) in enumerate(zip(values, biases, strict=True)):
        pattern = patterns[PER_MAP * layer : PER_MAP * (layer + 1)]
        numbers = geometry[NUMBERS * layer : NUMBERS * (layer + 1)]
        x = one(x, kept, bias if bias.numel() else None, pattern, numbers)
        x = x.relu() if relu[layer] else x
        x = F.max_pool2d(x, pool[layer]) if pool[layer] > 1 else x
    return x


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

    def one(x: Tensor, kept: Tensor, bias: Any, pattern: Any, numbers: list[int]) -> Tensor:
        return sparse_conv_reference(x, kept, bias, pattern, False, numbers)

    return _one_by_one(one, (x, values, biases, patterns, orders, geometry, relu, pool))


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
    size = list(x.shape[2:])
    for layer, side in enumerate(pool):
        shape = ConvGeometry.from_numbers(geometry[NUMBERS * layer : NUMBERS * (layer + 1)])
        size = [n // side for n in shape.output_size(size)]
    return x.new_empty((x.shape[0], patterns[-PER_MAP].shape[0] - 1, *size))


class _LayerByLayer:
    """Where gradients are asked for, the layers one after another, each with its own."""

    @staticmethod
    def apply(*args: Any) -> Tensor:
        def one(x: Tensor, kept: Tensor, bias: Any, pattern: Any, numbers: list[int]) -> Tensor:
            return sparse_conv(x, kept, pattern, bias, ConvGeometry.from_numbers(numbers))

        return _one_by_one(one, args)


# Without checks of what comes: `tap_order` of every layer or nothing, and all geometries' numbers.
chain_checked = declare(
    "sparse_conv_chain(Tensor x, Tensor[] values, Tensor[] biases, Tensor[] patterns,"
    " Tensor[] orders, int[] geometry, int[] relu, int[] pool) -> Tensor",
    sparse_conv_chain_reference,
    _fake,
    _LayerByLayer,
    differentiable,
)
