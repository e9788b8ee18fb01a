import itertools

import pytest
import torch

from sparseq.formats import CSRPattern
from sparseq.ops.spmm import dense_matrix, spmm
from sparseq.ops.spmm_chain import spmm_chain
from tests.ops.cases import (
    BATCHES,
    assert_near,
    assert_same_bits_on_threads,
    assert_same_product,
    normal,
    over_dtypes,
    strided,
)

WIDTHS = [(1, 1), (17, 33, 5), (19, 16, 49, 3), (70, 300, 70)]  # features from map to map


def random_pattern(m, k):
    keep = normal(m, k, seed=1) > 0.6
    keep[m // 2] = False
    return CSRPattern.from_mask(keep)


def chain(widths, dtype=torch.float64):
    """values, biases, patterns and relu of maps of these widths; every second has a bias."""
    kept = [random_pattern(m, k) for k, m in itertools.pairwise(widths)]
    values = [normal(pattern.nnz, dtype=dtype, seed=5) for pattern in kept]
    biases = [normal(m if i % 2 == 0 else 0, dtype=dtype) for i, m in enumerate(widths[1:])]
    relu = [int(i % 3 != 2) for i in range(len(kept))]
    return values, biases, [tensor for pattern in kept for tensor in pattern.tensors], relu


def in_float64(x, values, biases, patterns, relu):
    x = x.double()
    for i, (kept, bias, has_relu) in enumerate(zip(values, biases, relu, strict=True)):
        x = x @ dense_matrix(kept.double(), patterns[5 * i : 5 * i + 5]).t()
        x = x + bias.double() if bias.numel() else x
        x = x.relu() if has_relu else x
    return x


@over_dtypes
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_agrees_with_float64(dtype, widths):
    maps = chain(widths, dtype)
    for batch in BATCHES:
        x = normal(batch, widths[0], dtype=dtype)
        assert_near(spmm_chain(x, *maps), in_float64(x, *maps))


def test_takes_leading_dimensions_and_strides():
    values, biases, patterns, relu = chain((17, 33, 5))
    x = normal(2, 3, 17)
    want = spmm_chain(x.flatten(0, 1), values, biases, patterns, relu).unflatten(0, (2, 3))
    spread = [list(map(strided, tensors)) for tensors in (values, biases)]
    assert_same_product("spmm_chain", spmm_chain(strided(x), *spread, patterns, relu), want)


@pytest.mark.parametrize("batch", [1, 16, 40, 64, 200])
def test_threads_do_not_change_a_bit(batch):
    maps = chain((256, 512, 130), torch.float32)
    x = normal(batch, 256, dtype=torch.float32)
    assert_same_bits_on_threads("spmm_chain", lambda: spmm_chain(x, *maps))


def test_relu_keeps_nan_and_one_row_does_not_reach_another():
    values, biases, patterns, _ = chain((17, 33, 5))
    x = normal(40, 17)
    x[7] = float("nan")
    y = spmm_chain(x, values, biases, patterns, [1, 1])
    hidden = spmm(x, values[0], patterns[:5], biases[0]).relu()
    assert torch.equal(y.isnan(), spmm(hidden, values[1], patterns[5:]).isnan())
    assert y[7].isnan().any()
    assert not y[:7].isnan().any()


def test_gradients_of_every_tensor():
    values, biases, patterns, relu = chain((5, 6, 4))
    leaves = [t.requires_grad_() for t in (normal(3, 5), *values, *biases)]

    def run(x, *tensors):
        return spmm_chain(x, tensors[:2], tensors[2:], patterns, relu)

    assert torch.autograd.gradcheck(run, leaves)


def test_errors_name_the_argument():
    values, biases, patterns, relu = chain((17, 33, 5))
    x = normal(2, 17)
    with pytest.raises(ValueError, match=r"five per map in patterns, got 2, 2, 5 and 2"):
        spmm_chain(x, values, biases, patterns[:5], relu)
    with pytest.raises(ValueError, match=r"must accept 16 features in map 0, got 17"):
        spmm_chain(x[:, 1:], values, biases, patterns, relu)
    with pytest.raises(ValueError, match=r"values\[1\] must have one entry for each of the"):
        spmm_chain(x, [values[0], values[0]], biases, patterns, relu)
    with pytest.raises(ValueError, match=r"biases\[0\] must be empty or have shape \(33,\)"):
        spmm_chain(x, values, [normal(2), biases[1]], patterns, relu)
    with pytest.raises(ValueError, match=r"must accept 0 features"):
        spmm_chain(torch.tensor(1.0), values, biases, patterns, relu)
    with pytest.raises(ValueError, match=r"spmm_chain, map \d: .* must have the dtype of values"):
        spmm_chain(x.float(), values, biases, patterns, relu)
