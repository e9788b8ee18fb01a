import pytest
import torch

from sparseq.formats import CSRPattern
from sparseq.ops.sddmm import sddmm
from tests.ops.cases import (
    BATCHES,
    assert_gradients,
    assert_near,
    assert_refuses,
    assert_same_bits_on_threads,
    normal,
    over_dtypes,
    over_sizes,
    patterns,
    strided,
)


@over_dtypes
@over_sizes
def test_agrees_with_float64(dtype, size):
    m, k = size
    for pattern in patterns(m, k):
        for batch in BATCHES:
            dy, x = normal(batch, m, dtype=dtype, seed=2), normal(batch, k, dtype=dtype)
            exact = pattern.gather(dy.double().t() @ x.double())
            assert_near(sddmm(dy, x, pattern.tensors), exact)


@pytest.mark.parametrize("batch", [1, 16, 64, 129, 300])
def test_threads_do_not_change_a_bit(batch):
    pattern = CSRPattern.from_mask(normal(700, 900) > 1.0)
    dy, x = normal(batch, 700, dtype=torch.float32), normal(batch, 900, dtype=torch.float32)
    assert_same_bits_on_threads("sddmm", lambda: sddmm(dy, x, pattern.tensors))


def test_gradients_to_second_order():
    pattern = CSRPattern.from_mask(normal(5, 7) > 0.3).tensors
    assert_gradients(lambda dy, x: sddmm(dy, x, pattern), normal(4, 5), normal(4, 7))


def test_takes_any_strides_and_leading_dimensions():
    pattern = CSRPattern.from_mask(normal(6, 9) > 0).tensors
    dy, x = normal(2, 3, 6), normal(2, 3, 9)
    want = sddmm(dy.flatten(0, 1), x.flatten(0, 1), pattern)
    torch.testing.assert_close(sddmm(strided(dy), strided(x), pattern), want)
    ones = torch.ones(()).double().expand(2, 3, 6)
    torch.testing.assert_close(sddmm(ones, x, pattern), sddmm(ones.contiguous(), x, pattern))


def test_errors_name_the_argument():
    pattern = CSRPattern.from_mask(torch.ones(3, 4, dtype=torch.bool)).tensors
    good = {"dy": normal(2, 3), "x": normal(2, 4), "pattern": pattern}
    assert_refuses(
        sddmm,
        good,
        [
            ("dy", normal(2, 4), r"sddmm: dy must have 3 features, got \(2, 4\)"),
            ("x", normal(5, 4), r"sddmm: x must have shape \(2, 4\), got \(5, 4\)"),
        ],
    )
