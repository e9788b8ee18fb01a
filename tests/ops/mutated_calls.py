"""Calls of every op with arguments that were changed at random; a seed is one call.

    python -m tests.ops.mutated_calls FIRST COUNT PROGRESS

makes COUNT calls from seed FIRST on and prints what is wrong with any of them. The file PROGRESS
always holds the seed of the call that is being made, for whoever finds the process dead.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from sparseq.formats import CSRPattern
from sparseq.ops._backend import OPERATORS
from tests.op_samples import SAMPLES, drawing
from tests.ops.mutations import mutate

EXPECTED = (ValueError, TypeError, RuntimeError, MemoryError, OverflowError, IndexError)
DTYPES = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


@dataclass
class Call:
    """A call: op, arguments, what was changed, and what keeps the arguments' memory alive."""

    name: str
    args: list[Any]
    changes: set[str] = field(default_factory=set)
    holders: list[Any] = field(default_factory=list)


def draw_call(seed: int) -> Call:
    """The call of a seed."""
    chance = random.Random(seed)
    name = chance.choice(sorted(SAMPLES))
    draw = drawing(chance.choice(DTYPES), seed=seed)
    args = chance.choice(list(SAMPLES[name](draw)))
    call = Call(name, [list(a) if isinstance(a, list) else a for a in args])
    is_trusted, changed = chance.random() < 0.5, set()
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        position = chance.randrange(len(call.args))
        call.args[position], change = mutate(chance, call.args[position])
        call.changes.add(change)
        changed.add(position)
    if is_trusted:
        _trust_patterns(call, changed)
    return call


def _trust_patterns(call: Call, changed: set[int]) -> None:
    """Pass patterns that were not changed as layers do, in tensors that the ops know."""
    for position, argument in enumerate(OPERATORS[call.name].call._schema.arguments):
        if argument.name in ("pattern", "patterns") and position not in changed:
            tensors = call.args[position]
            starts = range(0, len(tensors), 5)
            patterns = [CSRPattern(*tensors[i : i + 5]) for i in starts]
            call.args[position] = [t for pattern in patterns for t in pattern._tensors]
            call.holders.extend(patterns)


def fault_of(call: Call, with_gradient: bool) -> str | None:
    """What is wrong with a call: another result than the reference, an error of another kind."""
    try:
        result = _run(call, with_gradient)
    except EXPECTED as error:
        return _fault_of_error(call, error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(result, Tensor):
        return f"result {type(result).__name__}"
    return _fault_of_fake(call, result) or _fault_of_numbers(call, result)


def _run(call: Call, with_gradient: bool) -> Any:
    if not with_gradient:
        return OPERATORS[call.name].call(*call.args)
    args = tree_map(_leaf, call.args)
    result = OPERATORS[call.name].call(*args)
    if result.requires_grad:
        result.double().sum().backward()
    return result.detach()


def _leaf(value: Any) -> Any:
    is_number = isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta
    return value.detach().requires_grad_() if is_number else value


def _fault_of_error(call: Call, error: Exception) -> str | None:
    if isinstance(error, RecursionError):
        return f"RecursionError: {error}"
    if call.changes & {"contents", "layout", "numbers"}:
        return None  # a fake sees none of them
    if isinstance(error, MemoryError) or "alloc" in str(error):
        return None  # nor how much memory there is
    args = tree_map(_to_meta, call.args)
    if any(isinstance(a, Tensor) and a.is_meta for a in _leaves(call.args)):
        args = call.args
    try:
        fake = OPERATORS[call.name].call(*args)
    except EXPECTED:
        return None
    return f"refused as {str(error).splitlines()[0]!r}, but the fake gives {tuple(fake.shape)}"


def _fault_of_fake(call: Call, result: Tensor) -> str | None:
    try:
        fake = OPERATORS[call.name].call(*tree_map(_to_meta, call.args))
    except EXPECTED as error:
        if not result.numel():
            return None  # nothing was computed, and of its operands nothing read
        return f"gives {tuple(result.shape)}, but the fake says {error}"
    if (fake.shape, fake.dtype) != (result.shape, result.dtype):
        return f"gives {tuple(result.shape)}, the fake {tuple(fake.shape)}"
    return None


def _fault_of_numbers(call: Call, result: Tensor) -> str | None:
    if result.is_meta or "numbers" in call.changes:
        return None
    try:
        exact = OPERATORS[call.name].reference(*tree_map(_to_double, call.args))
    except EXPECTED as error:
        is_empty = any(isinstance(a, Tensor) and not a.numel() for a in _leaves(call.args))
        if is_empty and bool(result.isfinite().all()):
            return None  # torch refuses many operands without entries
        return f"gives {tuple(result.shape)}, but the reference says {error}"
    if exact.shape != result.shape:
        return f"gives {tuple(result.shape)}, the reference {tuple(exact.shape)}"
    error, scale = (result.double() - exact).abs(), exact.abs().max() if exact.numel() else 0
    if exact.numel() and not bool((error <= TOLERANCES[result.dtype] * (1 + scale)).all()):
        return f"differs from the reference by {error.max():.3g} of {scale:.3g}"
    return None


def _to_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def _to_double(value: Any) -> Any:
    is_number = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().double() if is_number else value


def _leaves(args: list[Any]) -> list[Any]:
    return [leaf for a in args for leaf in (a if isinstance(a, list) else [a])]


def run(first: int, count: int, tell: Callable[[int], None]) -> list[str]:
    """What is wrong with `count` calls; `tell(seed)` precedes each."""
    faults = []
    for seed in range(first, first + count):
        tell(seed)
        call = draw_call(seed)
        fault = fault_of(call, with_gradient=seed % 7 == 0)
        if fault:
            faults.append(f"seed {seed}, {call.name} with {', '.join(call.changes)}: {fault}")
    return faults


def main() -> int:
    """As the module says."""
    file = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    torch.set_num_threads(2)
    faults = run(
        int(sys.argv[1]), int(sys.argv[2]), lambda seed: os.pwrite(file, b"%12d" % seed, 0)
    )
    print("\n".join(faults))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
