"""`spmm_chain`: sparse linear maps one after another, in one layout.

    x_0 = x,   x_l = f_l(A_l x_(l-1) + b_l),   y = x_L,   f_l the identity or max(0, .)

A_l in CSR as in `spmm`. The kernel takes a tile of examples through all maps, so that what lies
between them is never copied back to batch-major order, and a bias and a ReLU cost no pass of their
own. It is for inference: gradients are those of the maps taken one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops.spmm import spmm, spmm_reference

PER_MAP = 5  # tensors of a pattern


def spmm_chain(
    x: Tensor,
    values: Sequence[Tensor],
    biases: Sequence[Tensor],
    patterns: Sequence[Tensor],
    relu: Sequence[int],
) -> Tensor:
    """Sparse linear maps of the last dimension, one after another.

    Args:
        x: (..., k), floating point.
        values: of each of the L maps the kept weights (nnz) in CSR order, of x's dtype.
        biases: (m) of each map, or an empty tensor for none.
        patterns: row_ptr, col_idx, row_ptr_t, col_idx_t, perm (int32) of the first map, then of
            the second, and so on: 5 L tensors.
        relu: of each map whether max(0, .) follows it.

    Returns:
        (..., m) of the last map, x's dtype. 16-bit dtypes are rounded once, at the end.

    Raises:
        ValueError: lists that differ in length, or maps that do not fit x or each other; dtypes
            that differ.
    """
    count = len(values)
    if not count or len(biases) != count or len(relu) != count or len(patterns) != PER_MAP * count:
        sizes = f"{count}, {len(biases)}, {len(patterns)} and {len(relu)}"
        rule = "must have an entry for each map, at least one, and five of patterns"
        require(False, "spmm_chain", "values, biases, patterns, relu", rule, sizes)
    features = x.shape[-1] if x.dim() else 0
    for layer in range(count):
        row_ptr, col_idx, row_ptr_t = patterns[PER_MAP * layer : PER_MAP * layer + 3]
        if row_ptr_t.shape[0] - 1 != features:
            rule = f"must take the {features} features that come to map {layer}"
            require(False, "spmm_chain", "patterns", rule, row_ptr_t.shape[0] - 1)
        _check_map(layer, values[layer], biases[layer], row_ptr, col_idx)
        bias = biases[layer]
        if values[layer].dtype != x.dtype or (bias.numel() and bias.dtype != x.dtype):
            given = {"x": x, "values": values[layer], "bias": bias if bias.numel() else None}
            refuse_dtypes(f"spmm_chain, map {layer}", "values", given)
        features = row_ptr.shape[0] - 1
    return _SPMM_CHAIN(x, list(values), list(biases), list(patterns), list(relu))


def _check_map(layer: int, values: Tensor, bias: Tensor, row_ptr: Tensor, col_idx: Tensor) -> None:
    if values.shape != col_idx.shape:
        rule = f"must have one entry for each of the {col_idx.shape[0]} column ids"
        require(False, "spmm_chain", f"values[{layer}]", rule, tuple(values.shape))
    if bias.numel() and bias.shape != (row_ptr.shape[0] - 1,):
        rule = f"must be empty or have shape ({row_ptr.shape[0] - 1},)"
        require(False, "spmm_chain", f"biases[{layer}]", rule, tuple(bias.shape))


def _one_by_one(one: Any, x: Tensor, values: Any, biases: Any, patterns: Any, relu: Any) -> Tensor:
    """The maps through `one(x, values, bias, pattern)`."""
    for layer, (kept, bias, cut) in enumerate(zip(values, biases, relu, strict=True)):
        pattern = patterns[PER_MAP * layer : PER_MAP * (layer + 1)]
        x = one(x, kept, bias if bias.numel() else None, pattern)
        x = x.relu() if cut else x
    return x


def spmm_chain_reference(
    x: Tensor, values: list[Tensor], biases: list[Tensor], patterns: list[Tensor], relu: list[int]
) -> Tensor:
    """Plain torch: the reference of `spmm`, map by map."""

    def one(x: Tensor, kept: Tensor, bias: Tensor | None, pattern: list[Tensor]) -> Tensor:
        return spmm_reference(x, kept, bias, pattern, False)

    return _one_by_one(one, x, values, biases, patterns, relu)


def _fake(
    x: Tensor, values: list[Tensor], biases: list[Tensor], patterns: list[Tensor], relu: list[int]
) -> Tensor:
    return x.new_empty((*x.shape[:-1], patterns[-PER_MAP].shape[0] - 1))


class _MapByMap:
    """Where gradients are asked for, the maps one after another, each with its own."""

    @staticmethod
    def apply(*args: Any) -> Tensor:
        def one(x: Tensor, kept: Tensor, bias: Tensor | None, pattern: list[Tensor]) -> Tensor:
            return spmm(x, kept, pattern, bias)

        return _one_by_one(one, *args)


def differentiable(args: Sequence[Any]) -> list[Tensor]:
    """The tensors of a chain's arguments that may require a gradient."""
    x, values, biases = args[:3]
    return [x, *values, *biases]


_SPMM_CHAIN = declare(
    "spmm_chain(Tensor x, Tensor[] values, Tensor[] biases, Tensor[] patterns, int[] relu)"
    " -> Tensor",
    spmm_chain_reference,
    _fake,
    _MapByMap,
    differentiable,
)
