"""The example on which `compress` measures: inputs of any model, and runs on copies of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.compression.calls import Call, record_calls, tensors_in
from sparseq.errors import argument_error
from sparseq.nn.computed import copy_model
from sparseq.nn.convert import device_of

ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


def as_call(op: str, example: Any) -> Call:
    """The call `model(...)` that an example stands for, with copies of its tensors.

    Args:
        op: operation named in the error.
        example: a tensor; a tuple or list of positional inputs; or a dict of keyword inputs.

    Raises:
        ValueError: anything else, or an example without a tensor.
    """
    has_tensor = any(True for _ in tensors_in(example))
    if not has_tensor or not isinstance(example, Tensor | tuple | list | Mapping):
        rule = "must be a tensor, a tuple of inputs or a dict of keyword inputs"
        raise argument_error(op, "example", rule, describe(example))
    copied = _copied(example)
    if isinstance(copied, Mapping):
        return Call((), dict(copied))
    return Call((copied,) if isinstance(copied, Tensor) else tuple(copied), {})


def observe(
    model: nn.Module, paths: list[str], call: Call, training: bool = False
) -> tuple[nn.Module, dict[str, list[Call]], list[Tensor]]:
    """Run a copy of a model once, and record how the modules at some paths are called.

    Calls that take equally long share their arguments, so that few activations stay in memory.
    The model, its buffers and torch's random state are not modified.

    Args:
        model: any module.
        paths: of the modules to watch.
        call: its arguments.
        training: run in training mode and record gradients, or in evaluation mode without them.

    Returns:
        The copy, in that mode; path -> calls; the tensors in its output.
    """
    twin = copy_model(model).train(training)
    with pure(training, device_of_call(model, call)):
        watched = {path: twin.get_submodule(path) for path in paths}
        seen: dict[str, Call] = {}
        keep = partial(Call.like, seen=seen)
        calls, y = record_calls(watched, lambda: twin(*call.args, **call.kwargs), keep)
    return twin, calls, list(tensors_in(y))


@contextmanager
def pure(training: bool, device: torch.device) -> Iterator[None]:
    """Runs inside the block record gradients in training only, and leave torch's random state."""
    generators = [device] if device.type == "cuda" else []
    with torch.set_grad_enabled(training), torch.random.fork_rng(generators):
        yield


@contextmanager
def accepted(op: str, argument: str, rule: str, got: Callable[[], object]) -> Iterator[None]:
    """Turns what a model's own code raises for an input into a ValueError about the argument."""
    try:
        yield
    except ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise argument_error(op, argument, f"{rule} ({reason})", got()) from error


def device_of_call(model: nn.Module, call: Call) -> torch.device:
    """The device of the first tensor in the arguments, else the model's."""
    tensors = tensors_in((call.args, call.kwargs))
    return next((tensor.device for tensor in tensors), device_of(model))


def describe(value: Any) -> str:
    """Shapes of tensors and types of everything else, for errors."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {describe(v)}" for name, v in value.items()) + "}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(describe, value))})"
    return type(value).__name__


def _copied(value: Any) -> Any:
    """The same nested value with tensors of its own."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, Mapping):
        return {name: _copied(item) for name, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(_copied, value))
    return value
