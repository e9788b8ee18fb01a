"""Expander layers to test, of every kind of graph."""

from __future__ import annotations

import pytest
import torch

from sparseq.nn import ExpanderLinear, ExpanderQLinear

# name of a graph, and the op that serves a real layer of it
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
KINDS = [ExpanderLinear, ExpanderQLinear]
over_graphs = pytest.mark.parametrize("graph", GRAPHS)
over_kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind, graph="xnet", **options):
    """32 to 48 nodes of degree 4."""
    unit = 4 if kind is ExpanderQLinear else 1
    return kind(32 * unit, 48 * unit, 4, graph, **{"seed": 3, **options})


def inputs(layer, count=5):
    return torch.randn(count, layer.in_features, dtype=layer.values.dtype)
