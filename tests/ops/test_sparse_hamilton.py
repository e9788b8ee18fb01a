import pytest
import torch

from sparseq.formats import CSRPattern
from sparseq.ops.hamilton import fold_real, hamilton, real_weight
from sparseq.ops.sparse_hamilton import compact_weight, sparse_hamilton
from tests.ops.cases import (
    BATCHES,
    assert_gradients,
    assert_near,
    assert_refuses,
    assert_same_bits_on_threads,
    assert_takes_any_layout,
    normal,
    over_dtypes,
    over_sizes,
    patterns,
)

dv_op = torch.ops.sparseq.sparse_hamilton_dv.default
over_granularities = pytest.mark.parametrize(
    "per_quaternion", [False, True], ids=["component", "quaternion"]
)


def values_for(pattern, per_quaternion, dtype=torch.float64):
    return normal(*((pattern.nnz, 4) if per_quaternion else (pattern.nnz,)), dtype=dtype)


def sampled(gradient, pattern, per_quaternion):
    """The entries of a (4, m, k) gradient that the pattern keeps."""
    if per_quaternion:
        return torch.stack([pattern.gather(component) for component in gradient], 1)
    return pattern.gather(gradient.flatten(0, 1))


@over_granularities
@over_dtypes
@over_sizes
def test_agrees_with_float64(dtype, size, per_quaternion):
    m, k = size
    for pattern in patterns(m if per_quaternion else 4 * m, k):
        values, bias = values_for(pattern, per_quaternion, dtype), normal(4 * m, dtype=dtype)
        real = real_weight(compact_weight(values.double(), pattern.tensors))
        for batch in BATCHES:
            x, dy = normal(batch, 4 * k, dtype=dtype), normal(batch, 4 * m, dtype=dtype, seed=2)
            got = sparse_hamilton(x, values, pattern.tensors, bias)
            assert_near(got, x.double() @ real.t() + bias.double())
            got = sparse_hamilton(dy, values, pattern.tensors, conjugate=True)
            assert_near(got, dy.double() @ real)
            exact = sampled(fold_real(dy.double().t() @ x.double()), pattern, per_quaternion)
            assert_near(dv_op(dy, x, pattern.tensors, per_quaternion), exact)


@over_granularities
def test_is_hamilton_where_everything_is_kept(per_quaternion):
    pattern = CSRPattern.from_mask(torch.ones(6 if per_quaternion else 24, 5, dtype=torch.bool))
    values, x = values_for(pattern, per_quaternion), normal(9, 20)
    want = hamilton(x, compact_weight(values, pattern.tensors))
    torch.testing.assert_close(sparse_hamilton(x, values, pattern.tensors), want)


@over_granularities
@pytest.mark.parametrize("batch", [1, 16, 65, 200])
def test_threads_do_not_change_a_bit(batch, per_quaternion):
    pattern = CSRPattern.from_mask(normal(200 if per_quaternion else 800, 220) > 1.0)
    values = values_for(pattern, per_quaternion, torch.float32)
    x, dy = normal(batch, 880, dtype=torch.float32), normal(batch, 800, dtype=torch.float32)
    ids = pattern.tensors
    assert_same_bits_on_threads("sparse_hamilton", lambda: sparse_hamilton(x, values, ids))
    assert_same_bits_on_threads(
        "sparse_hamilton", lambda: sparse_hamilton(dy, values, ids, conjugate=True)
    )
    assert_same_bits_on_threads("sparse_hamilton_dv", lambda: dv_op(dy, x, ids, per_quaternion))


@over_granularities
def test_gradients_to_second_order(per_quaternion):
    pattern = CSRPattern.from_mask(normal(3 if per_quaternion else 12, 2) > 0.2)

    def run(x, values, bias):
        return sparse_hamilton(x, values, pattern.tensors, bias)

    assert_gradients(run, normal(5, 8), values_for(pattern, per_quaternion), normal(12))


@over_granularities
def test_takes_any_strides_and_leading_dimensions(per_quaternion):
    pattern = CSRPattern.from_mask(normal(6 if per_quaternion else 24, 5) > 0)

    def run(x, values):
        return sparse_hamilton(x, values, pattern.tensors)

    assert_takes_any_layout(run, normal(2, 3, 20), values_for(pattern, per_quaternion))


def test_errors_name_the_argument():
    pattern = CSRPattern.from_mask(torch.ones(8, 3, dtype=torch.bool)).tensors
    odd = CSRPattern.from_mask(torch.ones(6, 3, dtype=torch.bool)).tensors
    good = {"x": normal(2, 12), "values": normal(24), "pattern": pattern}
    assert_refuses(
        sparse_hamilton,
        good,
        [
            ("x", normal(2, 8), r"sparse_hamilton: x must have 12 features, got \(2, 8\)"),
            ("values", normal(5), r"values must have shape \(24,\) or \(24, 4\), got"),
            ("bias", normal(12), r"bias must have shape \(8,\), and be None when conj"),
        ],
    )
    with pytest.raises(ValueError, match="pattern must have 4 m rows, got 6"):
        sparse_hamilton(normal(2, 12), normal(18), odd)
