"""What is checked of every op's call where no compiled kernel does it: fakes and plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._inputs import check_dense
from sparseq.ops._pattern import COUNT, check_contents, check_lengths

Kernel = Callable[..., Tensor]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = ("pattern", "patterns", "orders")  # arguments that are lists of int32


def checked_fake(schema: Any, fake: Kernel) -> Kernel:
    """The fake behind checks of devices, layouts and the lengths of patterns."""

    def entry(*args: Any) -> Tensor:
        check_tensors(schema, args)
        for argument, pattern in _patterns(schema, args):
            check_lengths(schema.name.removeprefix("sparseq::"), argument, pattern)
        return fake(*args)

    return entry


def checked_reference(schema: Any, fake: Kernel, reference: Kernel) -> Kernel:
    """The plain-torch kernel behind what a compiled one checks: a checked fake, and patterns."""

    def entry(*args: Any) -> Tensor:
        fake(*args)
        for argument, pattern in _patterns(schema, args):
            check_contents(schema.name.removeprefix("sparseq::"), argument, pattern)
        return reference(*args)

    return entry


def check_tensors(schema: Any, args: Sequence[Any]) -> None:
    """ValueError unless all tensors are there, dense, numbers, and on the first one's device."""
    device, op = None, schema.name.removeprefix("sparseq::")
    for argument, value in zip(schema.arguments, args, strict=True):
        is_there = value is not None or str(argument.type) != "Tensor"
        require(is_there, op, argument.name, "must be a tensor", value)
        for index, tensor in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(tensor, Tensor):
                continue
            place = f"[{index}]" if isinstance(value, list) else ""
            check_dense(op, argument.name + place, tensor)
            device = tensor.device if device is None else device
            rule = f"must be on {device}, as all tensors of a call"
            require(tensor.device == device, op, argument.name, rule, tensor.device)
            is_no_bias = isinstance(value, list) and not tensor.numel()
            is_number = argument.name in INTEGERS or tensor.dtype in DTYPES or is_no_bias
            rule = "must be float32, float64, bfloat16 or float16"
            require(is_number, op, argument.name, rule, tensor.dtype)


def _patterns(schema: Any, args: Sequence[Any]) -> list[tuple[str, list[Tensor]]]:
    """The patterns of a call: one, or those of a chain."""
    for argument, value in zip(schema.arguments, args, strict=True):
        if argument.name == "pattern":
            return [("pattern", value)]
        if argument.name == "patterns":
            starts = range(0, len(value), COUNT)
            return [(f"patterns[{i}:]", value[i : i + COUNT]) for i in starts]
    return []
