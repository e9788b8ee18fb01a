from __future__ import annotations

import math

import pytest
import torch

from sparseq.formats import CSRPattern
from sparseq.ops.sparse_conv import (
    sparse_conv,
    sparse_conv_dv_reference,
    sparse_conv_reference,
)
from tests.ops.cases import (
    assert_near,
    assert_same_bits_on_threads,
    assert_same_product,
    normal,
    ours,
    over_dtypes,
    strided,
)
from tests.ops.conv_cases import (
    BATCHES,
    CASES,
    geometry,
    matrix_shape,
    over_cases,
    patterns,
    slices,
)

sparse_conv_dv = torch.ops.sparseq.sparse_conv_dv.default


@over_dtypes
@over_cases
def test_agrees_with_float64(dtype, case):
    channels, outputs, size, g = case
    bias, other = normal(outputs, dtype=dtype), normal(channels, dtype=dtype)
    for pattern in patterns(*matrix_shape(case)):
        values = normal(pattern.nnz, dtype=dtype)
        for batch in BATCHES if dtype == torch.float32 else BATCHES[1::3]:
            x = normal(batch, channels, *size, dtype=dtype)
            dy = normal(batch, outputs, *g.output_size(size), dtype=dtype, seed=1)
            inverse = g.transposed_to(size, g.output_size(size))
            exact = [values.double(), bias.double(), other.double()]
            got = sparse_conv(x, values, pattern.tensors, bias, g)
            assert_near(
                got,
                sparse_conv_reference(
                    x.double(), exact[0], exact[1], pattern.tensors, False, g.flat()
                ),
            )
            got = sparse_conv(dy, values, pattern.tensors, other, inverse, transposed=True)
            assert_near(
                got,
                sparse_conv_reference(
                    dy.double(), exact[0], exact[2], pattern.tensors, True, inverse.flat()
                ),
            )
            got = sparse_conv_dv(dy, x, pattern.tensors, g.flat())
            assert_near(
                got, sparse_conv_dv_reference(dy.double(), x.double(), pattern.tensors, g.flat())
            )


# spatial sizes and padding: rows that fill vectors, interleaved rows, images in lanes, strips
SLICED = [
    ((32, 32), 1),
    ((5, 16), 1),
    ((3, 13), 0),
    ((9, 37), 2),
    ((8, 8), 1),
    ((4, 4), 1),
    ((4, 8), 1),
    ((2, 2), 1),
    ((5, 5), 1),
    ((3, 3), 0),
    ((1, 16), 1),
    ((12, 12), 3),
]


def assert_all_agree(x, dy, values, bias, other, pattern, g):
    """Result, transpose and gradient in the values agree with plain torch in float64."""
    inverse = g.transposed_to(x.shape[2:], dy.shape[2:])
    exact = [t.double() for t in (x, dy, values, bias, other)]
    got = sparse_conv(x, values, pattern.tensors, bias, g)
    assert_near(
        got,
        sparse_conv_reference(exact[0], exact[2], exact[3], pattern.tensors, False, g.flat()),
    )
    got = sparse_conv(dy, values, pattern.tensors, other, inverse, transposed=True)
    assert_near(
        got,
        sparse_conv_reference(exact[1], exact[2], exact[4], pattern.tensors, True, inverse.flat()),
    )
    got = sparse_conv_dv(dy, x, pattern.tensors, g.flat())
    assert_near(got, sparse_conv_dv_reference(exact[1], exact[0], pattern.tensors, g.flat()))


@over_dtypes
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("size", "padding"), SLICED)
def test_complete_slices_agree_with_float64(dtype, size, padding, groups):
    g = geometry((3, 3), padding=padding, groups=groups)
    pattern = slices(20, 6 // groups)
    values = normal(pattern.nnz, dtype=dtype)
    bias, other = normal(20, dtype=dtype), normal(6, dtype=dtype)
    for batch in (1, 3, 16, 37):
        x = normal(batch, 6, *size, dtype=dtype)
        dy = normal(batch, 20, *g.output_size(size), dtype=dtype, seed=1)
        assert_all_agree(x, dy, values, bias, other, pattern, g)


@pytest.mark.parametrize("batch", [2, 40])
@pytest.mark.parametrize("size", [(40, 36), (70, 21), (8, 8), (4, 4), (2, 2)])
def test_complete_slices_give_the_same_bits_on_any_number_of_threads(batch, size):
    """With enough channels that large maps are processed in strips."""
    g, pattern = geometry((3, 3), padding=1), slices(60, 200)
    values = normal(pattern.nnz, dtype=torch.float32)
    x, dy = (normal(batch, c, *size, dtype=torch.float32) for c in (200, 60))
    for run in (
        lambda: sparse_conv(x, values, pattern.tensors, None, g),
        lambda: sparse_conv(dy, values, pattern.tensors, None, g, True),
        lambda: sparse_conv_dv(dy, x, pattern.tensors, g.flat()),
    ):
        assert_same_bits_on_threads("sparse_conv", run)
    if batch == 2:
        assert_all_agree(x, dy, values, values[:60], values[:200], pattern, g)


def test_slices_read_no_nan_from_elsewhere():
    """Neither from padding nor from unused lanes nor from the previous call."""
    g, pattern = geometry((3, 3), padding=1), slices(3, 3)
    values = normal(pattern.nnz, dtype=torch.float32)
    for size in ((8, 8), (4, 4), (2, 2), (6, 19), (5, 32)):
        spoiled = torch.full((40, 3, 24, 40), math.nan)
        sparse_conv(spoiled, values, pattern.tensors, None, g)
        sparse_conv_dv(spoiled, spoiled, pattern.tensors, g.flat())
        x, dy = (normal(9, 3, *size, dtype=torch.float32, seed=seed) for seed in (1, 2))
        x[4, 1, -1, -1] = math.inf
        y = sparse_conv(x, values, pattern.tensors, None, g)
        assert y[:4].isfinite().all()
        assert (~y[4].isfinite()).sum() % 4 == 0
        dv = sparse_conv_dv(dy, x, pattern.tensors, g.flat())
        exact = sparse_conv_dv_reference(dy, x, pattern.tensors, g.flat())
        assert torch.equal(dv.isfinite(), exact.isfinite())


@over_cases
def test_an_empty_batch(case):
    channels, outputs, size, g = case
    pattern = patterns(*matrix_shape(case))[3]
    x = normal(0, channels, *size).requires_grad_()
    values = normal(pattern.nnz).requires_grad_()
    y = sparse_conv(x, values, pattern.tensors, None, g)
    assert y.shape == (0, outputs, *g.output_size(size))
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert torch.equal(values.grad, torch.zeros_like(values))


@pytest.mark.parametrize("case", ["stride 2", "groups", "1d"])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_to_second_order(case, transposed):
    channels, outputs, size, g = CASES[case]
    channels, outputs = g.groups * 2, g.groups
    size = tuple(min(n, 5) for n in size)
    pattern = CSRPattern.from_mask(normal(outputs, 2 * g.taps) > 0.6)
    if transposed:
        size, g = g.output_size(size), g.transposed_to(size, g.output_size(size))
        channels, outputs = outputs, channels
    tensors = [normal(2, channels, *size), normal(pattern.nnz), normal(outputs)]
    tensors = [t.requires_grad_() for t in tensors]

    def run(x, values, bias):
        return sparse_conv(x, values, pattern.tensors, bias, g, transposed)

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


@pytest.mark.parametrize("batch", [1, 5, 40])
@pytest.mark.parametrize("size", [(40, 36), (4, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_threads_do_not_change_a_bit(batch, size, stride):
    g = geometry((3, 3), stride, padding=1)
    pattern = CSRPattern.from_mask(normal(60, 24 * 9) > 1.0)
    values = normal(pattern.nnz, dtype=torch.float32)
    x = normal(batch, 24, *size, dtype=torch.float32)
    y = sparse_conv(x, values, pattern.tensors, None, g)
    inverse = g.transposed_to(size, y.shape[2:])
    assert_same_bits_on_threads(
        "sparse_conv", lambda: sparse_conv(x, values, pattern.tensors, None, g)
    )
    assert_same_bits_on_threads(
        "sparse_conv", lambda: sparse_conv(y, values, pattern.tensors, None, inverse, True)
    )
    assert_same_bits_on_threads(
        "sparse_conv_dv", lambda: sparse_conv_dv(y, x, pattern.tensors, g.flat())
    )


@pytest.mark.parametrize("shape", [(2, 160, 70, 66), (40, 160, 20, 18)], ids=str)
def test_large_maps_run_in_strips(shape):
    g = geometry((3, 3), padding=1)
    pattern = CSRPattern.from_mask(normal(4, 160 * 9) > 1.5)
    x, values = normal(*shape).float(), normal(pattern.nnz).float()
    y = sparse_conv(x, values, pattern.tensors, None, g)
    exact, flat = [x.double(), values.double(), None], g.flat()
    assert_near(y, sparse_conv_reference(*exact, pattern.tensors, False, flat))
    got = sparse_conv_dv(y, x, pattern.tensors, flat)
    assert_near(got, sparse_conv_dv_reference(y.double(), x.double(), pattern.tensors, flat))


def test_takes_any_strides():
    g = geometry((3, 3), padding=1)
    pattern = patterns(6, 27)[3]
    x, values, bias = normal(2, 3, 4, 5), normal(pattern.nnz), normal(6)
    want = sparse_conv(x, values, pattern.tensors, bias, g)
    got = sparse_conv(strided(x), strided(values), pattern.tensors, strided(bias), g)
    assert_same_product("sparse_conv", got, want)
    last = x.contiguous(memory_format=torch.channels_last)
    got = sparse_conv(last, values, pattern.tensors, bias, g)
    assert_same_product("sparse_conv", got, want)


def test_nan_and_infinity_stay_where_they_belong():
    """Neither padding nor the unused lanes of a vector spread them to other sums."""
    g = geometry((3, 3), padding=1)
    pattern = CSRPattern.from_mask(torch.ones(2, 18, dtype=torch.bool))
    values = normal(pattern.nnz)
    for batch in (1, 17):
        x, dy = normal(batch, 2, 5, 5), normal(batch, 2, 5, 5, seed=1)
        x[0, 1, 0, 0] = math.inf
        y = sparse_conv(x, values, pattern.tensors, None, g)
        assert (~y.isfinite()).sum() == 2 * 4
        dv = sparse_conv_dv(dy, x, pattern.tensors, g.flat()).view(2, 2, 3, 3)
        assert dv[:, 0].isfinite().all()
        assert torch.equal(
            dv[:, 1].isfinite(),
            torch.tensor([[False, False, True], [False, False, True], [True] * 3]).expand(2, 3, 3),
        )


def test_a_call_does_not_depend_on_the_previous_one():
    g, pattern = geometry((3, 3), padding=1), patterns(6, 27)[3]
    values = normal(pattern.nnz, dtype=torch.float32)
    for batch in (1, 17):
        x = normal(batch, 3, 9, 7, dtype=torch.float32)
        want = sparse_conv(x, values, pattern.tensors, None, g)
        nan = torch.full((33, 3, 20, 20), math.nan)
        sparse_conv(nan, values, pattern.tensors, None, g)
        assert torch.equal(sparse_conv(x, values, pattern.tensors, None, g), want)


def test_errors_name_the_argument():
    g = geometry((3, 3))
    pattern = CSRPattern.from_mask(torch.ones(2, 27, dtype=torch.bool)).tensors
    x, values = normal(1, 3, 5, 5), normal(54)
    with pytest.raises(ValueError, match=r"sparse_conv: x must be \(N, 3\) with 2 spatial"):
        sparse_conv(normal(1, 4, 5, 5), values, pattern, None, g)
    with pytest.raises(ValueError, match=r"sparse_conv: x must be large enough for the kernel"):
        sparse_conv(normal(1, 3, 2, 5), values, pattern, None, g)
    with pytest.raises(ValueError, match=r"values must have one entry .* 54 .* got \(5,\)"):
        sparse_conv(x, normal(5), pattern, None, g)
    with pytest.raises(ValueError, match=r"bias must have shape \(2,\), got \(3,\)"):
        sparse_conv(x, values, pattern, normal(3), g)
    with pytest.raises(ValueError, match=r"pattern must have 1 groups of rows and 4 taps"):
        sparse_conv(x, values, pattern, None, geometry((2, 2)))
    with pytest.raises(ValueError, match="dtype"):
        sparse_conv(x.float(), values, pattern, None, g)
    size = "dy must have the size that x gives" if ours("sparse_conv_dv") else r"size\[2\] == 3"
    with pytest.raises(RuntimeError, match=size):
        sparse_conv_dv(normal(1, 2, 4, 3), x, pattern, g.flat())
