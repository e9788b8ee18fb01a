"""Awkward sizes for every op, and the comparisons shared by all op tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sparseq.formats import CSRPattern
from sparseq.ops._backend import activate

BATCHES = (0, 1, 2, 5, 16, 17, 33, 64, 65, 130)
SIZES = ((1, 1), (3, 5), (16, 16), (17, 33), (49, 70))  # (m, k): below, at and past a vector
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}

Misfits = Iterable[tuple[str, Any, str]]

over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
over_sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Seeded, normally distributed values."""
    generator = torch.Generator().manual_seed(hash((seed, *shape)) % 2**31)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def patterns(m: int, k: int) -> Iterator[CSRPattern]:
    """Nothing kept, everything kept, one column, one row, and random with empty rows."""
    everything = torch.ones(m, k, dtype=torch.bool)
    column, row = torch.zeros_like(everything), torch.zeros_like(everything)
    column[:, k // 2] = True
    row[m // 2] = True
    some = normal(m, k, seed=1) > 0.8
    some[:: max(m // 3, 1)] = False
    for mask in (~everything, everything, column, row, some):
        yield CSRPattern.from_mask(mask)


def assert_near(got: Tensor, exact: Tensor) -> None:
    """Equal up to the rounding of got's dtype, relative to the largest entry."""
    assert got.shape == exact.shape
    assert torch.isfinite(got).all()
    scale = float(exact.abs().max()) if exact.numel() else 0.0
    error = float((got.double() - exact).abs().max()) if exact.numel() else 0.0
    assert error <= TOLERANCES[got.dtype] * max(scale, 1e-3), (error, scale)


def ours(op: str) -> bool:
    """Whether our kernel serves the op: plain torch guarantees less about its products."""
    return activate("cpu")[op] == "compiled"


def assert_same_product(op: str, got: Tensor, want: Tensor) -> None:
    """Bitwise equal with our kernels, whatever the memory layout; nearly so with plain torch."""
    rounding = {"rtol": 0, "atol": 0} if ours(op) else {}
    torch.testing.assert_close(got, want, **rounding)


def assert_same_bits_on_threads(op: str, run: Callable[[], Tensor]) -> None:
    """Our kernels give the same bits on one and on two threads."""
    if not ours(op):
        pytest.skip("plain torch serves, whose products may differ")
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(run())
    torch.set_num_threads(before)
    assert torch.equal(*results)


def assert_gradients(run: Callable[..., Tensor], *tensors: Tensor) -> None:
    """First and second derivatives in all tensors agree with finite differences."""
    leaves = [tensor.requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


def assert_takes_any_layout(run: Callable[..., Tensor], x: Tensor, *others: Tensor) -> None:
    """Leading dimensions of x (a, b, features) are kept; no tensor needs to be contiguous."""
    want = run(x.flatten(0, 1), *others).unflatten(0, x.shape[:2])
    torch.testing.assert_close(run(strided(x), *map(strided, others)), want)
    torch.testing.assert_close(run(x[0, 0], *others), want[0, 0])


def assert_refuses(run: Callable[..., Tensor], good: dict[str, Any], bad: Misfits) -> None:
    """run(**good) works; each single (argument, value, message) of `bad` is an error."""
    run(**good)
    for argument, value, message in bad:
        with pytest.raises(ValueError, match=message):
            run(**{**good, argument: value})


def strided(x: Tensor) -> Tensor:
    """The same values at a stride of two."""
    return torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]


all_shapes = list(itertools.product(BATCHES, SIZES))
