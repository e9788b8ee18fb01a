import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sparseq.formats import CSRPattern
from sparseq.ops.geometry import ConvGeometry
from sparseq.ops.sparse_conv import conv_weight, sparse_conv
from sparseq.ops.sparse_conv_chain import chain_checked, sparse_conv_chain, tap_order
from tests.ops.cases import assert_near, assert_same_bits_on_threads, normal, over_dtypes, strided

SAME = ConvGeometry.of((3, 3), padding=1)
POINT = ConvGeometry.of((1, 1))

# channels, geometries, poolings, map
CASES = {
    "one layer": ((3, 5), [SAME], [1], (8, 8)),
    "pooled in the tile": ((3, 20, 33, 7), [SAME] * 3, [2, 2, 1], (16, 16)),
    "down to one pixel": ((2, 3, 4, 2, 5), [SAME] * 4, [2, 2, 2, 1], (8, 8)),
    "odd sizes": ((3, 4, 5), [SAME, SAME], [2, 1], (7, 9)),
    "windows of three": ((3, 4, 5), [SAME, SAME], [3, 1], (7, 9)),
    "overlapping tiles": ((3, 4, 4), [SAME, SAME], [2, 1], (6, 10)),
    "smaller than a tile": ((3, 4, 4), [SAME, SAME], [1, 1], (2, 3)),
    "no padding": ((3, 6, 16), [ConvGeometry.of((5, 5))] * 2, [2, 2], (32, 32)),
    "stride": ((3, 8, 4), [ConvGeometry.of((3, 3), 2, 1), POINT], [1, 2], (9, 12)),
    "groups": (
        (4, 8, 8),
        [ConvGeometry.of((3, 3), 1, 1, 1, 2), ConvGeometry.of((3, 3), 1, 2, 2, 4)],
        [1, 2],
        (6, 10),
    ),
    "one pixel": ((1, 1), [SAME], [1], (1, 1)),
    "1x1 in the middle": ((3, 17, 6, 4), [SAME, POINT, SAME], [1, 1, 2], (8, 4)),
}
over_cases = pytest.mark.parametrize("case", CASES)


def pattern_of(outputs, columns):
    keep = normal(outputs, columns, seed=1) > 0.4
    keep[outputs // 2] = outputs == 1
    return CSRPattern.from_mask(keep)


def layers(case, dtype=torch.float64):
    """The arguments of a case after x; every second layer has a bias, every third no ReLU."""
    channels, geometries, pool, _ = CASES[case]
    kept = []
    for (k, m), geometry in zip(itertools.pairwise(channels), geometries, strict=True):
        kept.append(pattern_of(m, k // geometry.groups * geometry.taps))
    values = [normal(pattern.nnz, dtype=dtype, seed=5) for pattern in kept]
    biases = [normal(m if i % 2 == 0 else 0, dtype=dtype) for i, m in enumerate(channels[1:])]
    relu = [int(i % 3 != 2) for i in range(len(kept))]
    patterns = [tensor for pattern in kept for tensor in pattern.tensors]
    return values, biases, patterns, geometries, relu, pool


def images(case, batch, dtype=torch.float64):
    channels, _, _, size = CASES[case]
    return normal(batch, channels[0], *size, dtype=dtype)


def one_by_one(x, convolve, values, biases, patterns, geometries, relu, pool):
    for i, geometry in enumerate(geometries):
        bias = biases[i] if biases[i].numel() else None
        x = convolve(x, values[i], patterns[5 * i : 5 * i + 5], bias, geometry)
        x = x.relu() if relu[i] else x
        x = F.max_pool2d(x, pool[i]) if pool[i] > 1 else x
    return x


def dense(x, values, pattern, bias, geometry):
    weight = conv_weight(values.double(), pattern, geometry.kernel_size)
    bias = None if bias is None else bias.double()
    return F.conv2d(x, weight, bias, *geometry[1:4], geometry.groups)


@over_dtypes
@over_cases
def test_agrees_with_float64(dtype, case):
    arguments = layers(case, dtype)
    for batch in (0, 1, 2, 5, 6, 16, 23, 40):
        x = images(case, batch, dtype)
        exact = one_by_one(x.double(), dense, *arguments)
        assert_near(sparse_conv_chain(x, *arguments), exact)


@over_cases
def test_a_precomputed_tap_order_changes_no_bit(case):
    values, biases, patterns, geometries, relu, pool = layers(case, torch.float32)
    orders = []
    for i, geometry in enumerate(geometries):
        orders += tap_order(patterns[5 * i : 5 * i + 5], geometry)
    flat = [setting for geometry in geometries for setting in geometry.flat()]
    x = images(case, 33, torch.float32)
    ordered = chain_checked(x, values, biases, patterns, orders, flat, relu, pool)
    assert torch.equal(ordered, sparse_conv_chain(x, *layers(case, torch.float32)))


@over_cases
@pytest.mark.parametrize("batch", [1, 5, 16, 48, 50])
def test_threads_do_not_change_a_bit(case, batch):
    arguments, x = layers(case, torch.float32), images(case, batch, torch.float32)
    assert_same_bits_on_threads("sparse_conv_chain", lambda: sparse_conv_chain(x, *arguments))


def test_threads_share_a_large_chain_without_changing_a_bit():
    pattern = pattern_of(64, 64 * 9)
    values, bias = normal(pattern.nnz, dtype=torch.float32), normal(64, dtype=torch.float32)
    arguments = [values] * 3, [bias] * 3, pattern.tensors * 3, [SAME] * 3, [1] * 3, [2, 1, 1]
    for batch in (1, 4, 16, 48):
        run = partial(sparse_conv_chain, normal(batch, 64, 16, 16, dtype=torch.float32), *arguments)
        assert_same_bits_on_threads("sparse_conv_chain", run)


def test_tensors_need_not_be_contiguous():
    values, biases, *others = layers("odd sizes")
    x = images("odd sizes", 17)
    want = sparse_conv_chain(x, values, biases, *others)
    spread = [list(map(strided, tensors)) for tensors in (values, biases)]
    assert torch.equal(sparse_conv_chain(strided(x), *spread, *others), want)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(sparse_conv_chain(last, values, biases, *others), want)


@pytest.mark.parametrize("case", ["pooled in the tile", "windows of three"])
@pytest.mark.parametrize("batch", [3, 20])
def test_relu_and_pooling_propagate_nan_as_torch_does(case, batch):
    arguments, x = layers(case), images(case, batch)
    x[1, 0, 3, 2] = float("nan")
    y = sparse_conv_chain(x, *arguments)
    want = one_by_one(x, sparse_conv, *arguments)
    assert torch.equal(y.isnan(), want.isnan())
    assert y[1].isnan().any()
    assert not y[0].isnan().any()
    assert not y[2:].isnan().any()


def test_gradients_of_every_tensor():
    values, biases, *others = layers("smaller than a tile")
    count = len(values)
    leaves = [t.requires_grad_() for t in (images("smaller than a tile", 2), *values, *biases)]

    def run(x, *tensors):
        return sparse_conv_chain(x, tensors[:count], tensors[count:], *others)

    assert torch.autograd.gradcheck(run, leaves)


def test_errors_name_the_argument():
    values, biases, patterns, geometries, relu, pool = layers("odd sizes")
    x = images("odd sizes", 2)
    rest = geometries, relu, pool
    with pytest.raises(ValueError, match=r"five per layer in patterns, got 2, 2, 2, 2, 2 and 5"):
        sparse_conv_chain(x, values, biases, patterns[:5], *rest)
    with pytest.raises(ValueError, match=r"must be \(N, C, height, width\), got \(3, 7, 9\)"):
        sparse_conv_chain(x[0], values, biases, patterns, *rest)
    with pytest.raises(ValueError, match=r"must accept 2 channels in layer 0, got 3"):
        sparse_conv_chain(x[:, 1:], values, biases, patterns, *rest)
    with pytest.raises(ValueError, match=r"values\[1\] must have one entry for each of the"):
        sparse_conv_chain(x, [values[0], values[0]], biases, patterns, *rest)
    with pytest.raises(ValueError, match=r"biases\[0\] must be empty or have shape \(4,\)"):
        sparse_conv_chain(x, values, [normal(2), biases[1]], patterns, *rest)
    with pytest.raises(ValueError, match=r"x must be large enough .* of layer 1, got \(4, 1, 1\)"):
        sparse_conv_chain(x[:, :, :2, :2], values, biases, patterns, geometries, relu, [2, 2])
    with pytest.raises(ValueError, match=r"pool\[0\] must be at least 1, got 0"):
        sparse_conv_chain(x, values, biases, patterns, geometries, relu, [0, 1])
    with pytest.raises(ValueError, match=r"layer \d: .* must have the dtype of values"):
        sparse_conv_chain(x.float(), values, biases, patterns, *rest)
