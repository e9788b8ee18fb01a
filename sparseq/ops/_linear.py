"""Derivatives of ops that are linear in each of their first two tensors.

    z = op(one, two, *rest)     or     z = op(one, two, bias, *rest), to which the bias is added

One rule serves each way of differentiating, whatever the op:

    reverse     its `gradients`, made of ops that are linear in two tensors themselves
    forward     dz = op(done, two, dbias, *rest) + op(one, dtwo, None, *rest)
    vmap        one call if only `one` has a batch, whose elements are further rows (or images);
                otherwise one call for each element

torch.func needs another kind of autograd.Function, whose calls take several times as long: it
serves transformed calls only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseq.ops._backend import OPERATORS
from sparseq.ops._calls import below_autograd

# (needs_input_grad, gradient of z, one, two, *rest) -> those of one, two and, if it has one, bias
Gradients = Callable[..., Sequence[Tensor | None]]
# (shapes of the arguments, shape of z) -> floating point operations
Flops = Callable[[Sequence[Any], Sequence[int]], int]


def linear_function(
    name: str, gradients: Gradients, flops: Flops, has_bias: bool = False, rows: int | None = None
) -> type[torch.autograd.Function]:
    """The autograd.Function of an op.

    Args:
        name: of the op.
        gradients: its rule of reverse mode.
        flops: what `torch.utils.flop_counter` counts for a call.
        has_bias: whether the third argument is a bias.
        rows: the dimension of features of `one` if its other dimensions are rows that do not affect
            each other: -1, or 1 if only the first dimension is. None if z is a sum over all rows.

    Returns:
        Its `apply` records a gradient; its `transformed` serves transformed calls.
    """

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, one: Tensor, two: Tensor, *others: Any) -> Tensor:
            ctx.save_for_backward(one, two)
            ctx.rest = others[has_bias:]
            with below_autograd():
                return OPERATORS[name].call(one, two, *others)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            rest = ctx.rest
            grads = gradients(ctx.needs_input_grad, grad, *ctx.saved_tensors, *rest)
            return (*grads, *(None,) * len(rest))

    class Transformed(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Tensor:
            with below_autograd():
                return OPERATORS[name].call(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.save_for_backward(*inputs[:2])
            ctx.save_for_forward(*inputs[:2])
            ctx.set_materialize_grads(False)
            ctx.rest = inputs[2 + has_bias :]

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
            if grad is None:
                return (None,) * len(ctx.needs_input_grad)
            return Linear.backward(ctx, grad)

        @staticmethod
        def jvp(ctx: Any, done: Tensor | None, dtwo: Tensor | None, *others: Any) -> Tensor:
            biases = others[:has_bias]
            return _tangent(name, ctx.saved_tensors, (done, dtwo), biases, ctx.rest)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
            if rows is None or not _is_first_only(in_dims):
                return _one_by_one(name, info.batch_size, in_dims, args), 0
            return _as_rows(name, rows, args[0].movedim(in_dims[0], 0), args[1:]), 0

    Linear.transformed = Transformed.apply  # type: ignore[attr-defined]
    Linear.flops = staticmethod(flops)  # type: ignore[attr-defined]
    return Linear


def multiply_adds(weight: Sequence[int], y: Sequence[int], features: int, products: int = 1) -> int:
    """Floating point operations of a product, or of one of its gradients.

    Args:
        weight: shape of the kept weights, or of their gradient.
        y: shape of the product's result, or of its gradient.
        features: the dimension of y's features; the others are positions, each of which uses every
            weight once.
        products: products of real numbers that a weight takes part in: 4 in a quaternion.
    """
    positions = [size for d, size in enumerate(y) if d != features % len(y)]
    return 2 * products * math.prod(weight) * math.prod(positions)


def _tangent(
    name: str,
    tensors: tuple[Tensor, Tensor],
    tangents: tuple[Tensor | None, Tensor | None],
    biases: Sequence[Tensor | None],
    rest: Sequence[Any],
) -> Tensor:
    """The derivative of z in the direction of the tangents, of which None is 0."""
    (one, two), (done, dtwo), op = tensors, tangents, OPERATORS[name].entry
    if dtwo is None:
        moves = done is not None  # otherwise only the bias does
        done, two = (done, two) if moves else (torch.zeros_like(one), torch.zeros_like(two))
        return op(done, two, *biases, *rest)
    dz = op(one, dtwo, *biases, *rest)
    return dz if done is None else dz + op(done, two, *(None for _ in biases), *rest)


def _is_first_only(in_dims: tuple[Any, ...]) -> bool:
    """Whether the first argument alone has a batch dimension."""
    return in_dims[0] is not None and all(map(_is_unbatched, in_dims[1:]))


def _is_unbatched(dims: Any) -> bool:
    return all(map(_is_unbatched, dims)) if isinstance(dims, list | tuple) else dims is None


def _as_rows(name: str, rows: int, one: Tensor, others: Sequence[Any]) -> Tensor:
    """The results for the elements of a batch, the first dimension of `one`, in one call."""
    if rows == -1:  # any leading dimensions
        return OPERATORS[name].entry(one, *others)
    z = OPERATORS[name].entry(one.flatten(0, 1), *others)
    return z.unflatten(0, one.shape[:2])


def _one_by_one(name: str, size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> Tensor:
    """(size, ...): the results for each element of the batch."""
    op = OPERATORS[name].entry
    results = [op(*_element(args, in_dims, i)) for i in range(max(size, 1))]
    return torch.stack(results)[:size]


def _element(argument: Any, dims: Any, i: int) -> Any:
    """Element i of an argument's batch; of an empty batch, zeros of its shape."""
    if isinstance(argument, list | tuple):
        return [_element(part, dim, i) for part, dim in zip(argument, dims, strict=True)]
    if dims is None:
        return argument
    batch = argument.movedim(dims, 0)
    return batch[i] if len(batch) else batch.new_zeros(batch.shape[1:])
