"""The calls of layers in one run of a model: recorded by hooks, told apart, and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Call:
    """Arguments of one call of a module, and the size of its output.

    Attributes:
        args, kwargs: detached; a tensor requires a gradient if it did in the call.
        outputs: number of elements of the output if it is a tensor, else 0.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: int = 0

    def signature(self) -> list[Any]:
        """What the time of the call depends on, as JSON values: equal for equal layouts."""
        return [
            [str(x.dtype), list(x.shape), list(x.stride()), x.requires_grad]
            for x in tensors_in((self.args, self.kwargs))
        ]

    def like(self, seen: dict[str, Call]) -> Call:
        """The call with the arguments of an earlier one that takes as long, to save memory.

        Integers may be indices, so that other ones would not do.

        Args:
            seen: earlier calls by what they are alike in; extended in place.
        """
        tensors = [*tensors_in((self.args, self.kwargs))]
        if not all(tensor.is_floating_point() for tensor in tensors):
            return self
        form = [*map(type, self.args), *self.kwargs, self.signature()]
        first = seen.setdefault(str(form), self)
        return replace(self, args=first.args, kwargs=first.kwargs)


def record_calls(
    modules: Mapping[str, nn.Module],
    run: Callable[[], Any],
    keep: Callable[[Call], Call] = lambda call: call,
) -> tuple[dict[str, list[Call]], Any]:
    """Name of each module -> its calls while `run` runs, in order, and the result of `run`.

    `keep` returns what is kept of a call.
    """
    calls: dict[str, list[Call]] = {name: [] for name in modules}
    handles = []
    for name, module in modules.items():

        def record(_: Any, args: Any, kwargs: Any, y: Any, seen: list[Call] = calls[name]) -> None:
            outputs = y.numel() if isinstance(y, Tensor) else 0
            seen.append(keep(Call(_detached(args), _detached(kwargs), outputs)))

        handles.append(module.register_forward_hook(record, with_kwargs=True))
    try:
        return calls, run()
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def _detached(value: Any) -> Any:
    """The same nested value with its tensors cut from autograd's graph."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {name: _detached(item) for name, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(_detached, value))
    return value


class Replay:
    """One pass of a module over recorded arguments: forward, and backward in training.

    Attributes:
        module: what is called.
        call: its arguments.
    """

    def __init__(self, module: nn.Module, call: Call, training: bool) -> None:
        self.module, self.call = module, call
        leaves = [*module.parameters(), *tensors_in((call.args, call.kwargs))]
        self._leaves = [leaf for leaf in leaves if leaf.requires_grad] if training else []

    def __call__(self) -> Any:
        """The output of the pass."""
        for leaf in self._leaves:
            leaf.grad = None
        y = self.module(*self.call.args, **self.call.kwargs)
        if self._leaves:
            self._backward(y)
        return y

    def _backward(self, y: Any) -> None:
        outputs = [tensor for tensor in tensors_in(y) if tensor.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(tensor) for tensor in outputs])
