"""Quaternion features of awkward sizes, and their channels as matrices in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.cases import assert_near

# (N, 4 C, ...): empty, single values, fewer and more channels and positions than a vector has
# lanes, sizes that are not a multiple of it, and one longer than a chunk
SHAPES = [
    (0, 8, 3, 3),
    (2, 8, 0),
    (3, 0, 5),
    (1, 4),
    (1, 4, 1, 1),
    (2, 12, 1, 1),
    (70, 132),
    (5, 8, 3),
    (3, 20, 3, 5),
    (2, 72, 1, 3),
    (4, 12, 4, 4),
    (2, 8, 7, 7),
    (9, 68, 2, 2),
    (3, 4, 5, 5, 5),
    (3000, 4, 5),
    (2, 4, 97, 93),
]
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


def quaternions(x: Tensor) -> Tensor:
    """(C, 4, values) of features (N, 4 C, ...), in float64."""
    values = x.double().unflatten(1, (4, -1)).unsqueeze(-1).flatten(3)
    return values.permute(2, 1, 0, 3).flatten(2)


def by_channel(vector: Tensor) -> Tensor:
    """(C, 4, 1) of a vector (4 C)."""
    return vector.double().view(4, -1, 1).transpose(0, 1)


def matrices_of(matrix: Tensor) -> Tensor:
    """(C, 4, 4) of matrices (4, 4, C), in float64."""
    return matrix.double().movedim(-1, 0)


def per_channel(y: Tensor, dtype: torch.dtype) -> Tensor:
    """`quaternions` of a result, which must have that dtype, rounded to it."""
    assert y.dtype == dtype
    return quaternions(y).to(dtype)


def assert_sums_near(got: Tensor, want: Tensor, count: int) -> None:
    """Sums of `count` values of either sign, which may cancel."""
    assert_near(got / count, want / count)
