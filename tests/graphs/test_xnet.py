"""Inputs with random outputs."""

from __future__ import annotations

import numpy as np
import pytest

from sparseq.graphs import draw_edges


@pytest.mark.parametrize(("n_in", "n_out"), [(50, 30), (30, 50), (7, 1), (1, 7)])
@pytest.mark.parametrize("degree", [1, 3, 40])
def test_every_input_has_the_degree(n_in, n_out, degree):
    edges = draw_edges("xnet", n_in, n_out, degree)
    assert (edges.in_degrees() == min(degree, n_out)).all()


def test_every_output_is_as_likely():
    degrees = draw_edges("xnet", 6000, 12, 2).out_degrees()
    assert np.abs(degrees - 1000).max() < 5 * np.sqrt(1000 * 10 / 12)
