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

from sparseq.ops._backend import OPERATORS, below_autograd
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
) -> type[torch.autograd.Function]:
    """The autograd.Function of a product.

    Args:
        product, sampled: names of the two ops, with the arguments above.
        entry: values -> the arguments `entry` of `sampled`.
        features: the dimension of y to which the bias belongs.
        transposed_settings: picks the size of x where several sizes of x give one size of y.
    """

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            x: Tensor,
            values: Tensor,
            bias: Tensor | None,
            pattern: list[Tensor],
            transposed: bool,
            *settings: Any,
        ) -> Tensor:
            ctx.save_for_backward(x, values)
            ctx.pattern, ctx.transposed, ctx.settings = pattern, transposed, settings
            with below_autograd():
                return OPERATORS[product].call(x, values, bias, pattern, transposed, *settings)

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
            x, values = ctx.saved_tensors
            need_x, need_values, need_bias = ctx.needs_input_grad[:3]
            pattern, transposed, settings = ctx.pattern, ctx.transposed, ctx.settings
            dx = dv = db = None
            if need_x:
                backward_settings = settings if transposed else transposed_settings(settings, dy, x)
                multiply = OPERATORS[product].entry
                dx = multiply(dy, values, None, pattern, not transposed, *backward_settings)
            if need_values:
                outer = (x, dy) if transposed else (dy, x)
                dv = OPERATORS[sampled].entry(*outer, pattern, *entry(values), *settings)
            if need_bias:
                db = feature_sum(dy, features)
            return dx, dv, db, None, None, *(None for _ in settings)

    return Product


def sampled_function(
    sampled: str,
    product: str,
    entry_arguments: int = 0,
    transposed_settings: TransposedSettings = _same,
) -> type[torch.autograd.Function]:
    """The autograd.Function of a sampled product.

    Args:
        sampled, product: names of the two ops.
        entry_arguments: number of arguments `entry` of `sampled`.
        transposed_settings: as in `product_function`.
    """

    class Sampled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, dy: Tensor, x: Tensor, pattern: list[Tensor], *rest: Any) -> Tensor:
            ctx.save_for_backward(dy, x)
            ctx.pattern, ctx.settings = pattern, rest[entry_arguments:]
            with below_autograd():
                return OPERATORS[sampled].call(dy, x, pattern, *rest)

        @staticmethod
        def backward(ctx: Any, ddv: Tensor) -> tuple[Tensor | None, ...]:
            dy, x = ctx.saved_tensors
            pattern, settings = ctx.pattern, ctx.settings
            multiply = OPERATORS[product].entry
            backward_settings = transposed_settings(settings, dy, x)
            need_dy, need_x, *others = ctx.needs_input_grad
            return (
                multiply(x, ddv, None, pattern, False, *settings) if need_dy else None,
                multiply(dy, ddv, None, pattern, True, *backward_settings) if need_x else None,
                *(None for _ in others),
            )

    return Sampled
