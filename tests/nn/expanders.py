"""Expander layers to test, with every type of graph."""

from __future__ import annotations

import pytest
import torch

from sparseq.nn import (
    ExpanderConv1d,
    ExpanderConv2d,
    ExpanderLinear,
    ExpanderQConv1d,
    ExpanderQConv2d,
    ExpanderQLinear,
)

# name of a graph -> op that computes a real layer on it
GRAPHS = {
    "random": "spmm",
    "xnet": "spmm",
    "regular(tries=2)": "spmm",
    "circulant": "spmm",
    "radix": "spmm",
    "block(4, xnet)": "block_mm",
    "group(2, xnet)": "block_mm",
    "block(1)": "spmm",
}
# type of convolution -> spatial sizes of its input
CONVS = {
    ExpanderConv1d: (7,),
    ExpanderConv2d: (5, 3),
    ExpanderQConv1d: (7,),
    ExpanderQConv2d: (5, 3),
}
KINDS = [ExpanderLinear, ExpanderQLinear, *CONVS]
QUATERNION = (ExpanderQLinear, ExpanderQConv1d, ExpanderQConv2d)
over_graphs = pytest.mark.parametrize("graph", GRAPHS)
over_kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind, graph="xnet", **options):
    """A layer with 32 input and 48 output nodes of degree 4."""
    return small(kind, 32, 48, 4, graph, **{"seed": 3, **options})


def small(kind, n_in, n_out, degree, graph, **options):
    """A layer with these numbers of nodes."""
    unit = 4 if kind in QUATERNION else 1
    if kind in CONVS:
        return kind(n_in * unit, n_out * unit, 3, degree, graph, **{"padding": 1, **options})
    return kind(n_in * unit, n_out * unit, degree, graph, **options)


def inputs(layer, count=5):
    sizes = CONVS.get(type(layer))
    shape = (layer.in_features,) if sizes is None else (layer.in_channels, *sizes)
    return torch.randn(count, *shape, dtype=layer.values.dtype)
