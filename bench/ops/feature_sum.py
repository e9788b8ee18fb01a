"""`feature_sum`, the gradient of a bias, against torch's sum."""

from __future__ import annotations

import pytest

from bench.baselines import agrees
from bench.cases import headline, normal
from sparseq.ops.feature_sum import feature_sum

SHAPES = [(64, 512), (256, 64, 8, 8), (32, 16, 56, 56)]


@headline(shape=(64, 512), thread_count=1)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_feature_sum(race, shape):
    dy = normal(*shape)
    others = [d for d in range(len(shape)) if d != 1]
    agrees(feature_sum(dy, 1), dy.double().sum(others), "feature_sum")
    sides = {"sparseq": lambda: feature_sum(dy, 1), "torch.sum": lambda: dy.sum(others)}
    case = "x".join(map(str, shape[1:]))
    race(
        sides,
        "feature_sum",
        suite="feature_sum",
        subject="feature_sum",
        case=case,
        step="forward",
        batch=shape[0],
    )
