"""What inf, NaN and zeros do: dropped entries are never multiplied, stored zeros are.

Held against sums over the stored entries in Python, by the kernels and by the references.
"""

from __future__ import annotations

import math

import pytest
import torch

from sparseq.formats import CSRPattern
from sparseq.ops._backend import OPERATORS
from sparseq.ops.geometry import ConvGeometry
from sparseq.ops.hamilton import PRODUCT, real_weight
from sparseq.ops.spmm import row_indices
from tests.ops.cases import normal

by_kernel_and_reference = pytest.mark.parametrize("side", ["call", "reference"])
over_seeds = pytest.mark.parametrize("seed", range(12))
GEOMETRIES = [
    ConvGeometry.of((3, 3), padding=1),
    ConvGeometry.of((1, 1)),
    ConvGeometry((2, 3), (2, 1), (0, 1), (1, 2), (0, 0), 1),
    ConvGeometry.of((3, 3), stride=2, padding=1, groups=2),
]


def kinds(y):
    """0 for finite numbers, 1 for inf, 2 for -inf, 3 for NaN."""
    y = y.double()
    return (y == math.inf) * 1 + (y == -math.inf) * 2 + y.isnan() * 3


def with_infinities(x, seed):
    """x with an inf, a -inf and a NaN somewhere, and some zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.2, 0.0, x)
    places = torch.randint(max(x.numel(), 1), (3,), generator=generator)
    for place, value in zip(places[: x.numel()], (math.nan, -math.inf, math.inf), strict=False):
        x.view(-1)[place] = value
    return x


def some_pattern(rows, columns, seed):
    return CSRPattern.from_mask(normal(rows, columns, seed=seed) > 0.6)


def sizes_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(1, 24, (3,), generator=generator)).tolist()


def entries(pattern, values):
    """(row, column, value) of the stored entries."""
    rows = row_indices(*pattern.tensors[:2])
    return list(zip(rows.tolist(), pattern.col_idx.tolist(), values, strict=True))


def product(triples, x, rows):
    """y[:, r] = sum of the entries' products."""
    y = torch.zeros(len(x), rows, dtype=torch.float64)
    for row, column, value in triples:
        y[:, row] += float(value) * x[:, column].double()
    return y


def assert_same_kinds(side, op, args, exact):
    assert torch.equal(kinds(getattr(OPERATORS[op], side)(*args)), kinds(exact))


@over_seeds
@by_kernel_and_reference
def test_spmm(side, seed):
    (m, k, batch), narrow = sizes_of(seed), torch.float32
    pattern = some_pattern(m, k, seed)
    values = normal(pattern.nnz, dtype=narrow)
    triples = entries(pattern, values)
    x = with_infinities(normal(batch, k, dtype=narrow), seed)
    args = x, values, None, pattern.tensors
    assert_same_kinds(side, "spmm", (*args, False), product(triples, x, m))
    dy = with_infinities(normal(batch, m, dtype=narrow), seed)
    turned = [(column, row, value) for row, column, value in triples]
    assert_same_kinds(side, "spmm", (dy, *args[1:], True), product(turned, dy, k))
    broken = with_infinities(values, seed)
    exact = product(entries(pattern, broken), normal(batch, k, dtype=narrow), m)
    args = normal(batch, k, dtype=narrow), broken, None, pattern.tensors, False
    assert_same_kinds(side, "spmm", args, exact)


@over_seeds
@by_kernel_and_reference
def test_spmm_chain(side, seed):
    m, k, batch = sizes_of(seed)
    pattern = some_pattern(m, k, seed)
    values, bias = normal(pattern.nnz, dtype=torch.float32), normal(m, dtype=torch.float32)
    x = with_infinities(normal(batch, k, dtype=torch.float32), seed)
    exact = product(entries(pattern, values), x, m)
    args = x, [values], [bias], list(pattern.tensors), [0]
    assert_same_kinds(side, "spmm_chain", args, exact)
    args = x, [values], [bias], list(pattern.tensors), [1]
    assert_same_kinds(side, "spmm_chain", args, exact.relu())


@over_seeds
@by_kernel_and_reference
def test_sampled_products(side, seed):
    m, k, batch = sizes_of(seed)
    pattern = some_pattern(m, k, seed)
    x = with_infinities(normal(batch, k, dtype=torch.float32), seed)
    dy = with_infinities(normal(batch, m, dtype=torch.float32, seed=1), seed + 1)
    full = dy.double().t()[:, None] * x.double().t()
    exact = full.sum(-1)[row_indices(*pattern.tensors[:2]), pattern.col_idx.long()]
    assert_same_kinds(side, "sddmm", (dy, x, pattern.tensors), exact)


@over_seeds
@by_kernel_and_reference
def test_block_mm(side, seed):
    grid_rows, grid_columns, batch = sizes_of(seed)
    pattern = some_pattern(grid_rows, grid_columns, seed)
    r, c = [(8, 8), (2, 3), (8, 1), (4, 4)][seed % 4]
    values = normal(pattern.nnz, r, c, dtype=torch.float32)
    triples = [
        (row * r + i, column * c + j, block[i, j])
        for row, column, block in entries(pattern, values)
        for i in range(r)
        for j in range(c)
    ]
    x = with_infinities(normal(batch, grid_columns * c, dtype=torch.float32), seed)
    args = x, values, None, pattern.tensors, False
    assert_same_kinds(side, "block_mm", args, product(triples, x, grid_rows * r))
    dy = with_infinities(normal(batch, grid_rows * r, dtype=torch.float32), seed)
    turned = [(column, row, value) for row, column, value in triples]
    args = dy, values, None, pattern.tensors, True
    assert_same_kinds(side, "block_mm", args, product(turned, dy, grid_columns * c))


@over_seeds
@by_kernel_and_reference
@pytest.mark.parametrize("whole", [False, True])
def test_sparse_hamilton(side, seed, whole):
    m, k, batch = sizes_of(seed)
    pattern = some_pattern(m if whole else 4 * m, k, seed)
    values = normal(pattern.nnz, *([4] if whole else []), dtype=torch.float32)
    triples = [
        (a * m + row % m, b * k + column, sign * (value[c] if whole else value))
        for row, column, value in entries(pattern, values)
        for a, line in enumerate(PRODUCT)
        for b, (c, sign) in enumerate(line)
        if whole or c == row // m
    ]
    x = with_infinities(normal(batch, 4 * k, dtype=torch.float32), seed)
    args = x, values, None, pattern.tensors
    assert_same_kinds(side, "sparse_hamilton", (*args, False), product(triples, x, 4 * m))
    dy = with_infinities(normal(batch, 4 * m, dtype=torch.float32), seed)
    turned = [(column, row, value) for row, column, value in triples]
    args = dy, *args[1:], True
    assert_same_kinds(side, "sparse_hamilton", args, product(turned, dy, 4 * k))


def conv_triples(pattern, values, geometry, image):
    """(flat output, flat input, value) of all products of a convolution, the padding left out."""
    (height, width), (high, wide) = image, geometry.output_size(image)
    rows, columns = pattern.shape[0], pattern.shape[1] // geometry.taps
    for row, column, value in entries(pattern, values):
        group = row // (rows // geometry.groups)
        channel, tap = group * columns + column // geometry.taps, column % geometry.taps
        t = divmod(tap, geometry.kernel_size[1])
        for i, j in ((i, j) for i in range(high) for j in range(wide)):
            y, x = (
                geometry.stride[d] * place + geometry.dilation[d] * t[d] - geometry.padding[d]
                for d, place in enumerate((i, j))
            )
            if 0 <= y < height and 0 <= x < width:
                yield (row * high + i) * wide + j, (channel * height + y) * width + x, value


@over_seeds
@by_kernel_and_reference
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_sparse_conv(side, seed, geometry):
    groups, image = geometry.groups, ((5, 8), (6, 7), (4, 16))[seed % 3]
    batch, rows, columns = (1, 3, 17)[seed % 3], 4, 3
    pattern = some_pattern(rows, columns * geometry.taps, seed)
    values = normal(pattern.nnz, dtype=torch.float32)
    triples = list(conv_triples(pattern, values, geometry, image))
    size = geometry.output_size(image)
    x = normal(batch, groups * columns, *image, dtype=torch.float32)
    dy = normal(batch, rows, *size, dtype=torch.float32, seed=1)
    broken_x, broken_dy = with_infinities(x, seed), with_infinities(dy, seed)
    exact = product(triples, broken_x.flatten(1), rows * math.prod(size)).view(dy.shape)
    args = values, None, pattern.tensors
    assert_same_kinds(side, "sparse_conv", (broken_x, *args, False, geometry.flat()), exact)
    turned = [(column, row, value) for row, column, value in triples]
    exact = product(turned, broken_dy.flatten(1), x[0].numel()).view(x.shape)
    backward = geometry.transposed_to(image, size).flat()
    assert_same_kinds(side, "sparse_conv", (broken_dy, *args, True, backward), exact)


@over_seeds
@by_kernel_and_reference
def test_an_infinite_weight_of_a_convolution_stays_in_its_channel(side, seed):
    """At the border it may be NaN, since the zeros of the padding may be multiplied by it."""
    geometry, image = GEOMETRIES[0], (5, 8)
    pattern = some_pattern(4, 3 * 9, seed)
    values = with_infinities(normal(pattern.nnz, dtype=torch.float32), seed)
    x = normal(2, 3, *image, dtype=torch.float32)
    triples = conv_triples(pattern, values, geometry, image)
    exact = kinds(product(triples, x.flatten(1), 4 * 40).view(2, 4, 5, 8))
    args = x, values, None, pattern.tensors, False, geometry.flat()
    got = kinds(getattr(OPERATORS["sparse_conv"], side)(*args))
    assert torch.equal(got[:, :, 1:-1, 1:-1], exact[:, :, 1:-1, 1:-1])
    assert ((got == exact) | (got == 3)).all()
    channels = {row for row, _, value in entries(pattern, values) if not math.isfinite(value)}
    untouched = [row for row in range(4) if row not in channels]
    assert not got[:, untouched].any()


@by_kernel_and_reference
@pytest.mark.parametrize("algorithm", ["auto", "8", "16"])
@pytest.mark.parametrize("size", [(3, 5), (40, 33)])
def test_a_dense_quaternion_map_breaks_what_reads_the_infinity(side, algorithm, size):
    """Whether that is inf or NaN depends on the algorithm: "8" adds components first."""
    m, k = size
    x, weight = normal(9, 4 * k, dtype=torch.float32), normal(4, m, k, dtype=torch.float32)
    run = getattr(OPERATORS["hamilton"], side)
    broken = x.clone()
    broken[2, 1] = math.inf
    assert (~run(broken, weight, None, algorithm).isfinite()).any(1).nonzero().tolist() == [[2]]
    assert not run(broken, weight, None, algorithm)[2].isfinite().any()
    weight[1, 0, 0] = -math.inf
    is_broken = ~run(x, weight, None, algorithm).isfinite()
    assert is_broken.all(0).nonzero().flatten().tolist() == [0, m, 2 * m, 3 * m]
    assert is_broken.sum() == 4 * len(x)
    assert real_weight(weight).isinf().sum() == 4


@by_kernel_and_reference
@pytest.mark.parametrize("algorithm", ["8", "16"])
@pytest.mark.parametrize("channels", [2, 24])
@pytest.mark.parametrize("batch", [1, 20])
def test_a_quaternion_convolution_breaks_what_reads_the_infinity(side, algorithm, channels, batch):
    """With "8" also the other pixels of a Winograd tile, at most five further."""
    x = normal(batch, 4 * channels, 12, 12, dtype=torch.float32)
    weight = normal(4, channels, channels, 3, 3, dtype=torch.float32)
    x[0, 1, 5, 6] = math.inf
    settings = [1, 1], [1, 1], [1, 1], 1, algorithm
    y = getattr(OPERATORS["hamilton_conv"], side)(x, weight, None, *settings)
    is_broken = ~y.isfinite()
    assert is_broken[0, :, 4:7, 5:8].all()
    reach = 5 if algorithm == "8" else 1
    is_broken[0, :, max(5 - reach, 0) : 6 + reach, max(6 - reach, 0) : 7 + reach] = False
    assert not is_broken.any()
