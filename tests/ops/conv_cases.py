"""Sizes, geometries and patterns shared by the tests of sparse convolutions."""

from __future__ import annotations

import pytest
import torch

from sparseq.formats import CSRPattern
from sparseq.ops.geometry import ConvGeometry
from tests.ops.cases import normal


def geometry(kernel, stride=1, padding=0, dilation=1, groups=1):
    return ConvGeometry.of(kernel, stride, padding, dilation, groups)


# (in channels, out channels, spatial size, geometry); sizes at, below and past a vector
CASES = {
    "3x3": (5, 18, (7, 9), geometry((3, 3), padding=1)),
    "3x3 without padding": (3, 4, (5, 3), geometry((3, 3))),
    "rows of a vector": (2, 3, (16, 16), geometry((3, 3), padding=1)),
    "rows past a vector": (2, 3, (3, 37), geometry((3, 3), padding=1)),
    "maps of 2x2": (17, 5, (2, 2), geometry((3, 3), padding=1)),
    "maps of 1x1": (4, 17, (1, 1), geometry((3, 3), padding=1)),
    "1x1": (6, 7, (5, 5), geometry((1, 1))),
    "1x1 of stride 2": (6, 7, (5, 6), geometry((1, 1), stride=2)),
    "stride 2": (4, 6, (9, 8), geometry((3, 3), stride=2, padding=1)),
    "stride beyond the kernel": (2, 3, (11, 7), geometry((2, 2), stride=3)),
    "even kernel, dilation": (3, 5, (8, 11), geometry((2, 4), padding=2, dilation=2)),
    "padding beyond the kernel": (2, 3, (3, 2), geometry((2, 2), padding=4)),
    "groups": (6, 9, (6, 5), geometry((3, 3), padding=1, groups=3)),
    "depthwise": (8, 16, (6, 6), geometry((3, 3), padding=1, groups=8)),
    "all at once": (4, 8, (9, 14), ConvGeometry((3, 2), (2, 3), (2, 1), (3, 2), (0, 0), 2)),
    "1d": (5, 6, (23,), geometry((5,), stride=2, padding=2)),
    "1d, long": (2, 3, (300,), geometry((3,), padding=1)),
    "3d": (3, 4, (4, 5, 3), geometry((3, 3, 3), padding=1)),
    "3d, strided": (
        2,
        4,
        (5, 4, 6),
        ConvGeometry((2, 3, 1), (2, 1, 2), (1,) * 3, (1,) * 3, (0,) * 3, 2),
    ),
}
BATCHES = (1, 3, 16, 21, 40)
over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def patterns(rows, columns):
    """Nothing kept, everything kept, one column, and random with empty rows."""
    everything = torch.ones(rows, columns, dtype=torch.bool)
    column = torch.zeros_like(everything)
    column[:, columns // 2] = True
    some = normal(rows, columns, seed=1) > 0.5
    some[::3] = False
    return [CSRPattern.from_mask(mask) for mask in (~everything, everything, column, some)]


def matrix_shape(case):
    channels, outputs, _, g = case
    return outputs, channels // g.groups * g.taps


def slices(rows, columns, taps=9):
    """Complete slices at random channels; the first row and the last column are empty."""
    edges = normal(rows, columns, seed=3) > 0.4
    edges[0], edges[:, -1] = False, False
    return CSRPattern.from_mask(edges.repeat_interleave(taps, 1))
