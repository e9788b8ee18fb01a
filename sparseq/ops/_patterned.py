"""The gradients of ops whose weight A is kept in the entries of a pattern only.

Such an op is a pair: a product, linear in x and in the values, and the gradient of its values,

    y  = product(x, values, bias, pattern, transposed, *settings)   A x + b, or A^T x + b
    dv = sampled(dy, x, pattern, *form, *settings)                  kept entries of d(dy . A x)/dA

`form` is what the values' shape says and dv must have too. The pair differentiates into itself to
any order, and nothing of A's full size ever exists:

    of y:   dx = A^T dy           the product, transposed the other way
            dv = sampled(dy, x)   with the two changed over where the product was transposed
            db = dy, summed over all but the features
    of dv:  A(ddv) x for dy, and A(ddv)^T dy for x, with ddv in the place of the values
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseq.ops._backend import OPERATORS, below_autograd

# (settings, dy, x) -> the settings of the transposed product that gives an x of that size
Back = Callable[[Sequence[Any], Tensor, Tensor], Sequence[Any]]


def _no_form(values: Tensor) -> Sequence[Any]:
    return ()


def _same(settings: Sequence[Any], dy: Tensor, x: Tensor) -> Sequence[Any]:
    return settings


def product_function(
    product: str,
    sampled: str,
    form: Callable[[Tensor], Sequence[Any]] = _no_form,
    features: int = -1,
    back: Back = _same,
) -> type[torch.autograd.Function]:
    """The autograd.Function of a product.

    Args:
        product, sampled: names of the pair's ops, with the arguments above.
        form: of the values, the arguments of `sampled` that come after the pattern.
        features: the dimension of y that the bias goes along.
        back: where several sizes of x give one y, what chooses among them.
    """

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, pattern, transposed, *settings
        ):
            ctx.save_for_backward(x, values)
            ctx.pattern, ctx.transposed, ctx.settings = pattern, transposed, settings
            with below_autograd():
                return OPERATORS[product].call(x, values, bias, pattern, transposed, *settings)

        @staticmethod
        def backward(ctx: Any, dy: Tensor):  # type: ignore[override]
            x, values = ctx.saved_tensors
            need_x, need_values, need_bias = ctx.needs_input_grad[:3]
            pattern, settings = ctx.pattern, ctx.settings
            dx = dv = db = None
            if need_x:
                there = settings if ctx.transposed else back(settings, dy, x)
                turned = not ctx.transposed
                dx = OPERATORS[product].entry(dy, values, None, pattern, turned, *there)
            if need_values:
                outer = (x, dy) if ctx.transposed else (dy, x)
                dv = OPERATORS[sampled].entry(*outer, pattern, *form(values), *settings)
            if need_bias:
                db = sum_to_features(dy, features)
            return dx, dv, db, None, None, *(None for _ in settings)

    return Product


def sampled_function(
    sampled: str, product: str, form: int = 0, back: Back = _same
) -> type[torch.autograd.Function]:
    """The autograd.Function of a sampled product.

    Args:
        sampled, product: names of the pair's ops.
        form: how many arguments say the values' form.
        back: as in `product_function`.
    """

    class Sampled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, dy: Tensor, x: Tensor, pattern: list[Tensor], *rest):
            ctx.save_for_backward(dy, x)
            ctx.pattern, ctx.settings = pattern, rest[form:]
            with below_autograd():
                return OPERATORS[sampled].call(dy, x, pattern, *rest)

        @staticmethod
        def backward(ctx: Any, ddv: Tensor):  # type: ignore[override]
            dy, x = ctx.saved_tensors
            pattern, settings = ctx.pattern, ctx.settings
            multiply, there = OPERATORS[product].entry, back(settings, dy, x)
            need_dy, need_x, *others = ctx.needs_input_grad
            return (
                multiply(x, ddv, None, pattern, False, *settings) if need_dy else None,
                multiply(dy, ddv, None, pattern, True, *there) if need_x else None,
                *(None for _ in others),
            )

    return Sampled


def sum_to_features(dy: Tensor, features: int) -> Tensor:
    """(features) the sum of dy over its other dimensions."""
    others = [d for d in range(dy.dim()) if d != features % dy.dim()]
    return dy.sum(others) if others else dy
