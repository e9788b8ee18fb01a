"""`spmm_chain`: consecutive sparse linear maps in one kernel.

    x_0 = x,   x_l = f_l(A_l x_(l-1) + b_l),   y = x_L,   f_l the identity or max(0, .)

A_l in CSR as in `spmm`. The kernel runs all maps on a tile of examples: intermediate results are
never copied back to batch-major order, and bias and ReLU are part of the epilogue. It is meant for
inference: gradients are computed map by map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops._linear import multiply_adds
from sparseq.ops.spmm import spmm, spmm_reference

PER_MAP = 5  # tensors per pattern


@takes_dense_tensors
def spmm_chain(
    x: Tensor,
    values: Sequence[Tensor],
    biases: Sequence[Tensor],
    patterns: Sequence[Tensor],
    relu: Sequence[int],
) -> Tensor:
    """Consecutive sparse linear maps of the last dimension.

    Args:
        x: (..., k), floating point.
        values: for each of the L maps the kept weights (nnz) in CSR order, of x's dtype.
        biases: (m) of each map, or an empty tensor for none.
        patterns: row_ptr, col_idx, row_ptr_t, col_idx_t, perm (int32) of the first map, then of
            the second, and so on: 5 L tensors. They are checked at every call, unless they are
            those of layers.
        relu: for each map 1 if max(0, .) follows it, otherwise 0.

    Returns:
        (..., m) of the last map, x's dtype. 16-bit dtypes are rounded once, at the end.

    Raises:
        ValueError: lists of different lengths, maps whose shapes do not match x or each other,
            or different dtypes.
    """
    lists = list(values), list(biases), list(patterns), list(relu)
    _check(x, *lists)
    return _SPMM_CHAIN(x, *lists)


def _check(
    x: Tensor, values: list[Tensor], biases: list[Tensor], patterns: list[Tensor], relu: list[int]
) -> None:
    count = len(values)
    if not count or len(biases) != count or len(relu) != count or len(patterns) != PER_MAP * count:
        sizes = f"{count}, {len(biases)}, {len(patterns)} and {len(relu)}"
        rule = "must have one entry per map, at least one, and five per map in patterns"
        require(False, "spmm_chain", "values, biases, patterns, relu", rule, sizes)
    features = x.shape[-1] if x.dim() else 0
    for layer in range(count):
        row_ptr, col_idx, row_ptr_t = patterns[PER_MAP * layer : PER_MAP * layer + 3]
        if row_ptr_t.shape[0] - 1 != features or not x.dim():
            rule = f"must accept {features} features in map {layer}"
            require(False, "spmm_chain", "patterns", rule, row_ptr_t.shape[0] - 1)
        _check_map(layer, values[layer], biases[layer], row_ptr, col_idx)
        bias = biases[layer]
        if values[layer].dtype != x.dtype or (bias.numel() and bias.dtype != x.dtype):
            tensors = {"x": x, "values": values[layer], "bias": bias if bias.numel() else None}
            refuse_dtypes(f"spmm_chain, map {layer}", "values", tensors)
        features = row_ptr.shape[0] - 1


def _check_map(layer: int, values: Tensor, bias: Tensor, row_ptr: Tensor, col_idx: Tensor) -> None:
    if values.shape != col_idx.shape:
        rule = f"must have one entry for each of the {col_idx.shape[0]} column ids"
        require(False, "spmm_chain", f"values[{layer}]", rule, tuple(values.shape))
    if bias.numel() and bias.shape != (row_ptr.shape[0] - 1,):
        rule = f"must be empty or have shape ({row_ptr.shape[0] - 1},)"
        require(False, "spmm_chain", f"biases[{layer}]", rule, tuple(bias.shape))


def _map_by_map(apply: Callable[..., Tensor], arguments: Sequence[Any]) -> Tensor:
    """The maps of a call, each by `apply(x, values, bias, pattern)`."""
    x, values, biases, patterns, relu = arguments
    result: Tensor = x
    for layer, bias in enumerate(biases):
        pattern = patterns[PER_MAP * layer : PER_MAP * (layer + 1)]
        result = apply(result, values[layer], bias if bias.numel() else None, pattern)
        result = result.relu() if relu[layer] else result
    return result


def spmm_chain_reference(
    x: Tensor, values: list[Tensor], biases: list[Tensor], patterns: list[Tensor], relu: list[int]
) -> Tensor:
    """Plain torch: the reference of `spmm`, map by map."""

    def apply(x: Tensor, kept: Tensor, bias: Tensor | None, pattern: list[Tensor]) -> Tensor:
        return spmm_reference(x, kept, bias, pattern, False)

    return _map_by_map(apply, (x, values, biases, patterns, relu))


def _fake(
    x: Tensor, values: list[Tensor], biases: list[Tensor], patterns: list[Tensor], relu: list[int]
) -> Tensor:
    _check(x, values, biases, patterns, relu)
    return x.new_empty((*x.shape[:-1], patterns[-PER_MAP].shape[0] - 1))


class _MapByMap:
    """If a derivative is required, run `spmm` map by map, each with its own derivatives."""

    @staticmethod
    def apply(*args: Any) -> Tensor:
        def apply(x: Tensor, kept: Tensor, bias: Tensor | None, pattern: list[Tensor]) -> Tensor:
            return spmm(x, kept, pattern, bias)

        _check(*args)
        return _map_by_map(apply, args)

    transformed = apply

    @staticmethod
    def flops(shapes: Sequence[Any], out: Sequence[int]) -> int:
        x, values, *_ = shapes
        return sum(multiply_adds(kept, x, features=-1) for kept in values)


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
