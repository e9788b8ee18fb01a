"""The error for anything that is passed in place of a dense tensor, the same for all ops."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparseq.errors import require

Function = TypeVar("Function", bound=Callable[..., Any])


def check_dense(op: str, name: str, value: Any) -> None:
    """ValueError unless a value is a dense tensor; it names the call that makes it one."""
    if not isinstance(value, Tensor):
        rule = f"must be a tensor, such as torch.as_tensor({name})"
        require(False, op, name, rule, type(value).__name__)
    remedy, got = None, value.layout
    if value.is_nested:
        remedy, got = "to_padded_tensor(0.0)", "a nested tensor"
    elif value.layout != torch.strided:
        remedy = "to_dense()"
    elif value.is_quantized:
        remedy, got = "dequantize()", value.dtype
    require(remedy is None, op, name, f"must be a dense tensor, such as {name}.{remedy}", got)


def check_arguments(op: str, arguments: Mapping[str, Any]) -> None:
    """`check_dense` for every tensor among the arguments, also in lists."""
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            check_dense(op, name, value)
        elif isinstance(value, list | tuple):
            check_arguments(op, {f"{name}[{i}]": part for i, part in enumerate(value)})


def takes_dense_tensors(function: Function) -> Function:
    """Decorator of an op's public function: if a call fails for such a reason, the error says so.

    Calls that succeed are not checked at all, which keeps them cheap.
    """
    signature = inspect.signature(function)
    tensors = {name for name, p in signature.parameters.items() if p.annotation == "Tensor"}
    optional = {n for n, p in signature.parameters.items() if p.annotation == "Tensor | None"}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception:
            passed = signature.bind(*args, **kwargs).arguments
            for name, value in passed.items():
                if name in tensors or (name in optional and value is not None):
                    check_dense(function.__name__, name, value)
            check_arguments(function.__name__, passed)
            raise

    call.takes_dense_tensors = True  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]
