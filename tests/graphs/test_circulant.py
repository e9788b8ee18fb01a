"""The same offsets at every node."""

from __future__ import annotations

import numpy as np
import pytest

from sparseq.graphs import draw_edges


def offsets_of(matrix: np.ndarray) -> list[set[int]]:
    """For each node of the larger side, the offsets of its neighbors."""
    large, small = matrix.shape
    return [{int(a - v) % small for a in np.flatnonzero(matrix[v])} for v in range(large)]


@pytest.mark.parametrize(("n_in", "n_out"), [(11, 11), (11, 25), (25, 11), (1, 5)])
@pytest.mark.parametrize("degree", [1, 4, 30])
def test_all_nodes_have_the_same_offsets(n_in, n_out, degree):
    matrix = draw_edges("circulant", n_in, n_out, degree).matrix()
    offsets = offsets_of(matrix if n_out >= n_in else matrix.T)
    assert all(node == offsets[0] for node in offsets)
    assert len(offsets[0]) == min(degree, n_in, n_out)


def test_both_sides_are_regular_where_one_divides_the_other():
    edges = draw_edges("circulant", 12, 36, 5)
    assert set(edges.in_degrees()) == {15}
    assert set(edges.out_degrees()) == {5}
