"""The same steps from every node."""

from __future__ import annotations

import numpy as np
import pytest

from sparseq.graphs import draw_edges


def steps_of(matrix: np.ndarray) -> list[set[int]]:
    """For each node of the larger side, its steps to those of the smaller."""
    large, small = matrix.shape
    return [{int(a - v) % small for a in np.flatnonzero(matrix[v])} for v in range(large)]


@pytest.mark.parametrize(("n_in", "n_out"), [(11, 11), (11, 25), (25, 11), (1, 5)])
@pytest.mark.parametrize("degree", [1, 4, 30])
def test_all_nodes_take_the_same_steps(n_in, n_out, degree):
    matrix = draw_edges("circulant", n_in, n_out, degree).matrix()
    steps = steps_of(matrix if n_out >= n_in else matrix.T)
    assert all(own == steps[0] for own in steps)
    assert len(steps[0]) == min(degree, n_in, n_out)


def test_both_sides_are_regular_where_one_divides_the_other():
    edges = draw_edges("circulant", 12, 36, 5)
    assert set(edges.in_degrees()) == {15}
    assert set(edges.out_degrees()) == {5}
