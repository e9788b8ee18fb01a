"""Independent edges."""

from __future__ import annotations

import numpy as np
import pytest

from sparseq.graphs import draw_edges, random


@pytest.mark.parametrize(("n_in", "n_out", "degree"), [(300, 200, 7), (200, 300, 7), (500, 4, 1)])
def test_the_number_of_edges_matches_the_probability(n_in, n_out, degree):
    p = degree / n_out
    edges = draw_edges("random", n_in, n_out, degree)
    spread = np.sqrt(n_in * n_out * p * (1 - p))
    assert abs(len(edges) - n_in * degree) < 4 * spread
    counts = np.bincount(edges.in_degrees(), minlength=n_out + 1)
    assert np.count_nonzero(counts) > 1, "degrees are not fixed"


def test_drawing_in_chunks_changes_nothing(monkeypatch):
    at_once = draw_edges("random", 37, 23, 5).matrix()
    monkeypatch.setattr(random, "EDGES_AT_ONCE", 100)
    assert (draw_edges("random", 37, 23, 5).matrix() == at_once).all()
