"""The gradients of ops that multiply by a dense weight W and have two more ops for them.

    y  = product(x, weight, bias, *settings)           W x + b
    dx = product_dx(dy, weight, *sizes, *settings)     W* dy
    dw = product_dw(dy, x, *sizes, *settings)          dy x*

`sizes` is the part of the result's shape that the tensors do not determine: empty, or for a
convolution the size of the image or of the kernel. Each of the three maps two tensors, of the kinds
y, x and weight, to the third kind and is linear in both; its gradients are the other two ops, with
the gradient of the result in place of the result. So they differentiate into each other to any
order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparseq.ops._backend import OPERATORS
from sparseq.ops._linear import linear_function, multiply_adds
from sparseq.ops.feature_sum import feature_sum


class _Op(NamedTuple):
    name: str
    first: str  # the kinds of its two tensors
    second: str
    extra: Callable[[Tensor], Sequence[Any]]  # result-like tensor -> arguments before the settings


def bilinear_functions(product: str, spatial: bool = False) -> list[type[torch.autograd.Function]]:
    """The autograd.Functions of a product, of its gradient in x and of its gradient in the weight.

    Args:
        product: name of the op; the names of the other two end in _dx and _dw.
        spatial: x is (n, features, *image) and the weight (4, m, k, *kernel), as in a convolution;
            otherwise x is (..., features) and `sizes` is empty.
    """
    image, kernel = (_image, _kernel) if spatial else (_nothing, _nothing)
    ops = {
        "y": _Op(product, "x", "weight", _no_bias),
        "x": _Op(f"{product}_dx", "y", "weight", image),
        "weight": _Op(f"{product}_dw", "y", "x", kernel),
    }
    return [_function(kind, ops, 1 if spatial else -1) for kind in ops]


def _no_bias(y: Tensor) -> Sequence[Any]:
    return (None,)


def _nothing(tensor: Tensor) -> Sequence[Any]:
    return ()


def _image(x: Tensor) -> Sequence[Any]:
    return (x.shape[2:],)


def _kernel(weight: Tensor) -> Sequence[Any]:
    return (weight.shape[3:],)


def _function(result: str, ops: dict[str, _Op], features: int) -> type[torch.autograd.Function]:
    """The Function of the op with this kind of result; `features` is the dimension of the bias."""
    op, has_bias = ops[result], result == "y"
    size_count = 1 if features == 1 and not has_bias else 0
    position = {op.first: 0, op.second: 1, result: 2}  # of each kind among (first, second, grad)
    others = [
        (ops[kind].name, position[ops[kind].first], position[ops[kind].second], ops[kind].extra)
        for kind in (op.first, op.second)
    ]

    def gradients(
        needs: Sequence[bool], grad: Tensor, first: Tensor, second: Tensor, *rest: Any
    ) -> Sequence[Tensor | None]:
        tensors, settings = (first, second, grad), rest[size_count:]
        grads: list[Tensor | None] = [None] * (3 if has_bias else 2)
        for i, (name, one, two, extra) in enumerate(others):
            if needs[i]:
                entry, sizes = OPERATORS[name].entry, extra(tensors[i])
                grads[i] = entry(tensors[one], tensors[two], *sizes, *settings)
        if has_bias and needs[2]:
            grads[2] = feature_sum(grad, features)
        return grads

    def flops(shapes: Sequence[Any], out: Sequence[int]) -> int:
        weight = out if result == "weight" else shapes[1]
        return multiply_adds(weight, out if result == "y" else shapes[0], features, products=4)

    rows = None if result == "weight" else features
    return linear_function(op.name, gradients, flops, has_bias, rows)
