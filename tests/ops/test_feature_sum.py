from __future__ import annotations

import pytest
import torch

from sparseq.ops.feature_sum import add_bias, feature_sum, feature_sum_reference
from tests.ops.cases import (
    assert_gradients,
    assert_near,
    assert_same_bits_on_threads,
    normal,
    over_dtypes,
    strided,
)

# features in front of, between and behind the others; fewer and more positions than a vector has
# lanes, columns that are no multiple of it, more than a chunk of either, and none
SHAPES = [
    ((5,), 0),
    ((1, 1), 1),
    ((3, 17), 1),
    ((700, 70), 1),
    ((300, 3, 5), 1),
    ((2, 3, 4, 7, 9), 1),
    ((9, 5, 40), 1),
    ((2, 3, 100, 190), 1),
    ((6, 5, 4), 0),
    ((2, 7, 33), 2),
    ((0, 4, 3), 1),
    ((3, 0, 4), 1),
    ((3, 4, 0), 1),
]
over_shapes = pytest.mark.parametrize(("shape", "features"), SHAPES, ids=str)


@over_dtypes
@over_shapes
def test_agrees_with_float64(dtype, shape, features):
    dy = normal(*shape, dtype=dtype)
    others = [d for d in range(len(shape)) if d != features]
    exact = dy.double().sum(others) if others else dy.double()
    scale = max(dy.numel() / max(shape[features], 1), 1) ** 0.5
    for got in (feature_sum(dy, features), feature_sum_reference(dy, features)):
        assert got.dtype == dtype
        assert_near(got / scale, exact / scale)


@over_shapes
def test_counts_features_from_the_end_and_takes_any_strides(shape, features):
    dy = normal(*shape)
    want = feature_sum(dy, features)
    assert torch.equal(feature_sum(dy, features - len(shape)), want)
    assert torch.equal(feature_sum(strided(dy), features), want)


@pytest.mark.parametrize("shape", [(700, 70), (64, 40, 5, 5), (33, 3, 100, 19), (90000, 1)])
def test_threads_do_not_change_a_bit(shape):
    dy = normal(*shape, dtype=torch.float32)
    assert_same_bits_on_threads("feature_sum", lambda: feature_sum(dy, 1))


def test_gradients_to_second_order():
    assert_gradients(lambda dy: feature_sum(dy, 1).square(), normal(2, 3, 4))
    assert_gradients(lambda y, b: add_bias(y, b, 1).square(), normal(2, 3, 4), normal(3))


def test_a_dimension_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="feature_sum: features must be a dimension of dy"):
        feature_sum(normal(2, 3), 2)
    with pytest.raises(ValueError, match="features"):
        feature_sum(normal(), 0)
    with pytest.raises(RuntimeError, match="features must be a dimension of dy"):
        torch.ops.sparseq.feature_sum(normal(2, 3), 5)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4)])
def test_other_dtypes_are_refused_even_without_entries(shape):
    dy = torch.zeros(shape, dtype=torch.int8)
    for serve in (torch.ops.sparseq.feature_sum, lambda dy, i: feature_sum(dy.to("meta"), i)):
        with pytest.raises((ValueError, RuntimeError), match="must be float32, float64, bfloat16"):
            serve(dy, 1)
