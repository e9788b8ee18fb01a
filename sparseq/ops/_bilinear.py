"""The gradients of ops that multiply by a dense weight W and have two more ops for them.

    y  = product(x, weight, bias, *settings)           W x + b
    dx = product_dx(dy, weight, *sizes, *settings)     W* dy
    dw = product_dw(dy, x, *sizes, *settings)          dy x*

`sizes` is what the tensors do not say of the result: nothing, or in a convolution the size of the
image or of the kernel. Each of the three takes two tensors, of the kinds y, x and weight, and is
linear in both; its gradients are the other two ops, with what it is given in the place of its own
result. So they differentiate into each other to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparseq.ops._backend import OPERATORS, below_autograd
from sparseq.ops._patterned import sum_to_features


class _Op(NamedTuple):
    name: str
    first: str  # the kinds of its tensors
    second: str
    extra: Callable[[Tensor], Sequence[Any]]  # its arguments before the settings, for such a result


def bilinear_functions(product: str, spatial: bool = False) -> list[type[torch.autograd.Function]]:
    """The autograd.Functions of a product, of its gradient of x and of that of the weight.

    Args:
        product: name of the op; the names of the others have _dx and _dw behind.
        spatial: x is (n, features, *image) and the weight (4, m, k, *kernel), as in a convolution;
            else x is (..., features) and no sizes are given.
    """
    image, kernel = (_image, _kernel) if spatial else (_nothing, _nothing)
    ops = {
        "y": _Op(product, "x", "weight", _no_bias),
        "x": _Op(f"{product}_dx", "y", "weight", image),
        "weight": _Op(f"{product}_dw", "y", "x", kernel),
    }
    return [_function(kind, ops, features=1 if spatial else -1) for kind in ops]


def _no_bias(y: Tensor) -> Sequence[Any]:
    return (None,)


def _nothing(tensor: Tensor) -> Sequence[Any]:
    return ()


def _image(x: Tensor) -> Sequence[Any]:
    return (x.shape[2:],)


def _kernel(weight: Tensor) -> Sequence[Any]:
    return (weight.shape[3:],)


def _function(gives: str, ops: dict[str, _Op], features: int) -> type[torch.autograd.Function]:
    """Of the op that gives this kind; `features` is the dimension that the bias goes along."""
    own = ops[gives]
    before = 1 if gives == "y" or features == 1 else 0  # the bias or sizes, then the settings
    at = {own.first: 0, own.second: 1, gives: 2}
    back = [ops[own.first], ops[own.second]]
    gradients = [(op.name, at[op.first], at[op.second], op.extra) for op in back]

    class Bilinear(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, first: Tensor, second: Tensor, *rest: Any):
            ctx.save_for_backward(first, second)
            ctx.settings = rest[before:]
            with below_autograd():
                return OPERATORS[own.name].call(first, second, *rest)

        @staticmethod
        def backward(ctx: Any, given: Tensor):  # type: ignore[override]
            tensors, settings = (*ctx.saved_tensors, given), ctx.settings
            needs = ctx.needs_input_grad
            grads: list[Tensor | None] = [None] * len(needs)
            for i, (name, one, two, extra) in enumerate(gradients):
                if needs[i]:
                    entry, sizes = OPERATORS[name].entry, extra(tensors[i])
                    grads[i] = entry(tensors[one], tensors[two], *sizes, *settings)
            if needs[2]:  # the bias: only a product has a third tensor
                grads[2] = sum_to_features(given, features)
            return tuple(grads)

    return Bilinear
