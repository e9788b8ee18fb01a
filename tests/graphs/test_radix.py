"""Layers of a RadiX-Net."""

from __future__ import annotations

import numpy as np
import pytest

from sparseq.graphs import draw_edges


@pytest.mark.parametrize(("radix", "digits"), [(2, 4), (3, 3), (5, 2), (7, 1)])
def test_one_path_leads_from_every_input_to_every_output(radix, digits):
    nodes = radix**digits
    paths = np.eye(nodes, dtype=int)
    for seed in range(digits):
        paths = draw_edges("radix", nodes, nodes, radix, seed).matrix().astype(int) @ paths
    assert (paths == 1).all()


def test_seeds_repeat_after_the_last_digit():
    drawn = [draw_edges("radix", 16, 16, 2, seed).matrix() for seed in (1, 5, -3)]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] == drawn[2]).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_multiple_is_the_kronecker_product_with_ones(seed):
    core = draw_edges("radix", 8, 8, 2, seed).matrix()
    wide = np.kron(np.ones((3, 1), np.bool_), core)
    assert (draw_edges("radix", 8, 24, 2, seed).matrix() == wide).all()
    narrow = draw_edges("radix", 24, 8, 2, seed).matrix()
    assert (narrow == wide.T).all()


@pytest.mark.parametrize(("nodes", "degree"), [(1, 1), (5, 1), (2, 2), (7, 3)])
def test_degrees(nodes, degree):
    edges = draw_edges("radix", nodes, nodes, degree, seed=1)
    assert set(edges.in_degrees()) == set(edges.out_degrees()) == {degree}
