"""Independent edges."""

from __future__ import annotations

import numpy as np
import pytest

from sparseq.graphs import draw_edges, random


@pytest.mark.parametrize(("n_in", "n_out", "degree"), [(300, 200, 7), (200, 300, 7), (500, 4, 1)])
def test_as_many_edges_as_the_probability_says(n_in, n_out, degree):
    p = degree / n_out
    edges = draw_edges("random", n_in, n_out, degree)
    spread = np.sqrt(n_in * n_out * p * (1 - p))
    assert abs(len(edges) - n_in * degree) < 4 * spread
    counts = np.bincount(edges.in_degrees(), minlength=n_out + 1)
    assert np.count_nonzero(counts) > 1, "degrees are not fixed"


def test_rows_drawn_together_make_no_difference(monkeypatch):
    whole = draw_edges("random", 37, 23, 5).matrix()
    monkeypatch.setattr(random, "ROWS_AT_ONCE", 100)
    assert (draw_edges("random", 37, 23, 5).matrix() == whole).all()
