"""One random change of an argument of an op: (changed value, kind of the change)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# none that asks for a result of some gigabytes, which a computer may well begin to compute
HUGE = (2**31 - 1, 2**31, 2**32 + 1, 2**62, 2**63 - 1, -(2**63), -(2**31))
SMALL = (-1, 0, 1, 2, 3, 5)
TEXTS = ("8", "16", "auto", "", "x" * 1000, "\0")
REALS = (float("nan"), float("inf"), 0.0, -1.0, 1e308, 1e-300)
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int8, torch.bool, torch.complex64),
)
Chance = random.Random


def mutate(chance: Chance, value: Any) -> tuple[Any, str]:
    """A changed argument, and the kind of the change.

    Kinds: "shape", "dtype", "device", "type" and "size" are visible to a fake; "contents" of
    integer tensors and "layout" are not; "numbers" are values that no reference is compared on.
    """
    if chance.random() < 0.03:
        return chance.choice((None, "x", 2.5, [], [None])), "type"
    if isinstance(value, Tensor):
        return _mutate_tensor(chance, value)
    if isinstance(value, bool):
        return not value, "size"
    if isinstance(value, int):
        return _mutate_int(chance, value), "size"
    if isinstance(value, float):
        return chance.choice(REALS), "numbers"
    if isinstance(value, str):
        return chance.choice(TEXTS), "size"
    if isinstance(value, list):
        return _mutate_list(chance, list(value))
    return torch.randn(chance.choice((0, 1, 4, 12))), "shape"


def _mutate_int(chance: Chance, value: int) -> int:
    return chance.choice((chance.choice(HUGE), chance.choice(SMALL), value + 1, value - 1, -value))


def _mutate_list(chance: Chance, values: list[Any]) -> tuple[list[Any], str]:
    way = chance.random()
    if not values or way < 0.08:
        return [*values, *(values[:1] or [1])], "shape"
    if way < 0.16:
        return values[:-1], "shape"
    position = chance.randrange(len(values))
    if way < 0.24:
        other = chance.randrange(len(values))
        values[position], values[other] = values[other], values[position]
        return values, "contents"
    values[position], kind = mutate(chance, values[position])
    return values, kind


def _mutate_tensor(chance: Chance, x: Tensor) -> tuple[Any, str]:
    if x.layout != torch.strided:
        return x, "layout"
    is_ids = x.dtype == torch.int32 and x.dim() == 1 and not x.is_meta
    way = chance.choice((_reshape, _reshape, _restride, _convert, _move, _refill, _refill))
    if is_ids and chance.random() < 0.6:
        return _edit_ids(chance, x), "contents"
    return way(chance, x)


def _reshape(chance: Chance, x: Tensor) -> tuple[Tensor, str]:
    changes: list[Callable[[], Tensor]] = [
        lambda: x[None],
        lambda: x.flatten(),
        lambda: x.reshape(-1)[:1].reshape(()) if x.numel() else x,
        lambda: x.new_zeros(0),
        lambda: x.new_zeros((0, *x.shape)),
        lambda: x.transpose(0, -1) if x.dim() else x,
        lambda: x[..., None],
    ]
    if x.dim():
        d = chance.randrange(x.dim())
        sizes = [list(x.shape) for _ in range(3)]
        sizes[0][d], sizes[1][d], sizes[2][d] = 0, x.shape[d] + 1, 2 * x.shape[d]
        changes += [lambda shape=shape: _filled(x, shape) for shape in sizes]
        changes += [lambda: x.narrow(d, 0, max(x.shape[d] - 1, 0)), lambda: x[:0]]
    return chance.choice(changes)(), "contents" if x.dtype == torch.int32 else "shape"


def _filled(x: Tensor, shape: list[int]) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    flat = x.reshape(-1)
    return (flat.repeat(count // max(len(flat), 1) + 1)[:count] if len(flat) else
            x.new_zeros(count)).reshape(shape)  # fmt: skip


def _restride(chance: Chance, x: Tensor) -> tuple[Tensor, str]:
    if not x.dim():
        return x, "layout"
    spread = torch.stack([x, torch.full_like(x, -1)], -1)[..., 0]
    offset = torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape)
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    expanded = x[..., :1].expand(x.shape) if x.shape[-1] else x
    kind = "contents" if x.dtype == torch.int32 else "layout"
    return chance.choice((spread, offset, turned, expanded)), kind


def _convert(chance: Chance, x: Tensor) -> tuple[Tensor, str]:
    return x.to(chance.choice(DTYPES)), "dtype"


def _move(chance: Chance, x: Tensor) -> tuple[Tensor, str]:
    if chance.random() < 0.2 and x.is_floating_point() and not x.is_meta and x.dim():
        return x.to_sparse(), "layout"
    return x.to("meta"), "device"


def _refill(chance: Chance, x: Tensor) -> tuple[Tensor, str]:
    if not x.is_floating_point() or not x.numel():
        return x.clone(), "layout"
    y, value = x.flatten().clone(), chance.choice((*REALS, -0.0))
    y[chance.randrange(y.numel())] = torch.tensor(value, dtype=torch.float64).to(x.dtype)
    return y.view(x.shape), "numbers"


def _edit_ids(chance: Chance, ids: Tensor) -> Tensor:
    """Other contents: far, just outside, negative, exchanged, from elsewhere; other lengths."""
    y, n = ids.clone(), ids.numel()
    way = chance.randrange(8)
    if n and way < 4:
        value = chance.choice((10**9, -1, 2**31 - 1, -(2**31), int(y.max()) + 1, 0, int(y[0]) + 1))
        y[chance.randrange(n)] = value
    elif n > 1 and way == 4:
        i, j = chance.randrange(n), chance.randrange(n)
        y[[i, j]] = y[[j, i]]
    elif way == 5:
        return y.flip(0)
    elif way == 6:
        return y[: chance.randrange(n + 1)]
    else:
        y = torch.cat([y, y.new_full((chance.choice((1, 3)),), chance.choice((0, 7, 10**9)))])
    return y
