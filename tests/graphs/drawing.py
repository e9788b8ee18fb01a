"""Checks and names of graphs that the tests share."""

from __future__ import annotations

import hashlib

import numpy as np

from sparseq.graphs import GRAPHS, Edges

# a name for each registered graph; blocks of 2 divide small sizes
CALLS = {name: f"{name}(2)" if name in ("block", "group") else name for name in GRAPHS.names()}


def digest(edges: Edges) -> str:
    """A hash of the edges, the same on every platform."""
    ends = (ids.astype("<i4").tobytes() for ids in (edges.outputs, edges.inputs))
    return hashlib.sha256(b"".join(ends)).hexdigest()[:16]


def assert_simple(edges: Edges) -> None:
    """The edges are sorted, in range and distinct."""
    ids = edges.outputs.astype(np.int64) * edges.n_in + edges.inputs
    assert (np.diff(ids) > 0).all()
    assert edges.outputs.dtype == edges.inputs.dtype == np.int32
    for ends, nodes in ((edges.outputs, edges.n_out), (edges.inputs, edges.n_in)):
        assert ends.min(initial=0) >= 0
        assert ends.max(initial=0) < nodes
