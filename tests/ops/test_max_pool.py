from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sparseq.ops.max_pool import max_pool, max_pool_dx_reference
from tests.ops.cases import (
    assert_gradients,
    assert_same_bits_on_threads,
    normal,
    over_dtypes,
    strided,
)

max_pool_dx = torch.ops.sparseq.max_pool_dx.default

# even maps with rows of 1, 2, 4, 8 and more windows, odd maps, and an empty batch
SHAPES = [
    (3, 5, 2, 2),
    (2, 7, 4, 4),
    (3, 3, 8, 8),
    (2, 3, 16, 16),
    (2, 2, 6, 32),
    (1, 2, 4, 70),
    (2, 3, 5, 7),
    (2, 3, 2, 9),
    (1, 1, 3, 2),
    (2, 3, 4, 6),
    (40, 37, 2, 2),
    (5, 33, 9),
    (0, 3, 4, 4),
    (33, 40, 8, 8),
]
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


def awkward(shape, dtype):
    """Few distinct values, so that many are equal; NaN, infinities and both zeros."""
    x = (normal(*shape) * 2).round().to(dtype)
    flat = x.view(-1)
    for step, value in ((7, math.nan), (11, -math.inf), (13, math.inf), (3, -0.0)):
        flat[step :: step * 3] = value
    return x


def assert_same_bits(got, want):
    assert got.dtype == want.dtype
    assert torch.equal(torch.nan_to_num(got, 77), torch.nan_to_num(want, 77))
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.signbit() & ~got.isnan(), want.signbit() & ~want.isnan())


@over_dtypes
@over_shapes
def test_agrees_with_torch_bit_for_bit(dtype, shape):
    x = awkward(shape, dtype)
    want, argmax = F.max_pool2d(x, 2, return_indices=True)
    assert_same_bits(max_pool(x), want)
    dy = normal(*want.shape, dtype=dtype, seed=1)
    dx = x.new_zeros(x.shape).flatten(-2).scatter(-1, argmax.flatten(-2), dy.flatten(-2))
    assert_same_bits(max_pool_dx(dy, x), dx.view(x.shape))
    assert_same_bits(max_pool_dx_reference(dy, x), dx.view(x.shape))


def test_windows_of_minus_infinity_keep_the_first():
    x = torch.full((1, 1, 2, 4), -math.inf)
    dx = max_pool_dx(torch.ones(1, 1, 1, 2), x)
    assert torch.equal(dx[0, 0], torch.tensor([[1.0, 0, 1, 0], [0] * 4]))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 2, 5, 7), (2, 4, 6)])
def test_gradients_to_second_order(shape):
    assert_gradients(max_pool, normal(*shape))


def test_gradients_equal_those_of_torch():
    x = normal(3, 5, 6, 8).requires_grad_()
    dy = normal(3, 5, 3, 4, seed=1)
    assert torch.equal(
        torch.autograd.grad(max_pool(x), x, dy)[0],
        torch.autograd.grad(F.max_pool2d(x, 2), x, dy)[0],
    )
    (dx,) = torch.autograd.grad(max_pool(x).sum(), x)  # a gradient of stride 0
    assert torch.equal(dx, torch.autograd.grad(F.max_pool2d(x, 2).sum(), x)[0])


@pytest.mark.parametrize("shape", [(32, 64, 16, 16), (16, 48, 30, 34)])
def test_threads_do_not_change_a_bit(shape):
    x = normal(*shape, dtype=torch.float32)
    assert_same_bits_on_threads("max_pool", lambda: max_pool(x))
    assert_same_bits_on_threads("max_pool_dx", lambda: max_pool_dx(max_pool(x), x))


def test_takes_any_strides():
    x = normal(2, 3, 4, 6)
    assert torch.equal(max_pool(strided(x)), max_pool(x))
    assert torch.equal(max_pool(x.contiguous(memory_format=torch.channels_last)), max_pool(x))


def test_errors_name_the_argument():
    for x in (normal(2, 3), normal(2, 3, 1, 5), normal(2, 3, 5, 1), torch.ones(2, 2, 2).int()):
        with pytest.raises(ValueError, match="max_pool: x must be floating point maps"):
            max_pool(x)
    with pytest.raises(RuntimeError, match="dy must have a number for each window"):
        max_pool_dx(normal(1, 2, 2, 3), normal(1, 2, 4, 4))
