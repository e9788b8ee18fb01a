"""The gradients of ops whose weight A is stored only at the entries of a sparsity pattern.

Such an op is a pair: a product, linear in x and in the values, and the gradient of its values,

    y  = product(x, values, bias, pattern, transposed, *settings)   A x + b, or A^T x + b
    dv = sampled(dy, x, pattern, *entry, *settings)                 kept entries of d(dy . A x)/dA

`entry` describes one entry of the values, whose shape dv must have too: nothing for scalars. The
pair differentiates into itself to any order, and no tensor of A's full size is ever formed:

    of y:   dx = A^T dy           the product, with `transposed` inverted
            dv = sampled(dy, x)   with dy and x swapped where the product was transposed
            db = dy, summed over all dimensions but the features
    of dv:  A(ddv) x for dy, and A(ddv)^T dy for x, with ddv as the values
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseq.ops._backend import OPERATORS
from sparseq.ops._linear import linear_function, multiply_adds
from sparseq.ops.feature_sum import feature_sum

# (settings, dy, x) -> the settings of the transposed product whose result has the size of x
TransposedSettings = Callable[[Sequence[Any], Tensor, Tensor], Sequence[Any]]


def _scalar(values: Tensor) -> Sequence[Any]:
    return ()


def _same(settings: Sequence[Any], dy: Tensor, x: Tensor) -> Sequence[Any]:
    return settings


def product_function(
    product: str,
    sampled: str,
    entry: Callable[[Tensor], Sequence[Any]] = _scalar,
    features: int = -1,
    transposed_settings: TransposedSettings = _same,
    products: int = 1,
) -> type[torch.autograd.Function]:
    """The autograd.Function of a product.

    Args:
        product, sampled: names of the two ops, with the arguments above.
        entry: values -> the arguments `entry` of `sampled`.
        features: the dimension of y to which the bias belongs.
        transposed_settings: picks the size of x where several sizes of x give one size of y.
        products: products of real numbers that one of the values takes part in at each position.
    """

    def gradients(
        needs: Sequence[bool],
        dy: Tensor,
        x: Tensor,
        values: Tensor,
        pattern: list[Tensor],
        transposed: bool,
        *settings: Any,
    ) -> Sequence[Tensor | None]:
        dx = dv = db = None
        if needs[0]:
            backward_settings = settings if transposed else transposed_settings(settings, dy, x)
            multiply = OPERATORS[product].entry
            dx = multiply(dy, values, None, pattern, not transposed, *backward_settings)
        if needs[1]:
            outer = (x, dy) if transposed else (dy, x)
            dv = OPERATORS[sampled].entry(*outer, pattern, *entry(values), *settings)
        if needs[2]:
            db = feature_sum(dy, features)
        return dx, dv, db

    def flops(shapes: Sequence[Any], out: Sequence[int]) -> int:
        x, values, _, _, transposed, *_ = shapes
        return multiply_adds(values, x if transposed else out, features, products)

    return linear_function(product, gradients, flops, has_bias=True, rows=features)


def sampled_function(
    sampled: str,
    product: str,
    entry_arguments: int = 0,
    features: int = -1,
    transposed_settings: TransposedSettings = _same,
    products: int = 1,
) -> type[torch.autograd.Function]:
    """The autograd.Function of a sampled product.

    Args:
        sampled, product: names of the two ops.
        entry_arguments: number of arguments `entry` of `sampled`.
        features, transposed_settings, products: as in `product_function`.
    """

    def gradients(
        needs: Sequence[bool], ddv: Tensor, dy: Tensor, x: Tensor, pattern: list[Tensor], *rest: Any
    ) -> Sequence[Tensor | None]:
        settings, multiply = rest[entry_arguments:], OPERATORS[product].entry
        backward_settings = transposed_settings(settings, dy, x)
        return (
            multiply(x, ddv, None, pattern, False, *settings) if needs[0] else None,
            multiply(dy, ddv, None, pattern, True, *backward_settings) if needs[1] else None,
        )

    def flops(shapes: Sequence[Any], out: Sequence[int]) -> int:
        return multiply_adds(out, shapes[0], features, products)

    return linear_function(sampled, gradients, flops)
