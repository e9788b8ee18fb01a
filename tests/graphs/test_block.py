"""Graphs between blocks of neurons."""

from __future__ import annotations

import numpy as np
import pytest

from sparseq.graphs import draw_edges


@pytest.mark.parametrize("of", ["random", "xnet", "regular(tries=2)", "circulant", "radix"])
@pytest.mark.parametrize(("n_in", "n_out"), [(32, 48), (48, 32)])
def test_edges_fill_complete_blocks(of, n_in, n_out):
    edges = draw_edges(f"block(4, {of})", n_in, n_out, 8, 1)
    assert edges.block == (4, 4)
    grid = edges.grid()
    assert (edges.matrix() == np.kron(grid.matrix(), np.ones((4, 4), np.bool_))).all()
    expected = draw_edges(of, n_in // 4, n_out // 4, 2, 1)
    assert (grid.matrix() == expected.matrix()).all(), "the degree counts neurons"


def test_the_degree_is_that_of_neurons():
    edges = draw_edges("block(16)", 128, 128, 32)
    assert set(edges.in_degrees()) == set(edges.out_degrees()) == {32}


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        ((30, 32, 8), r"graph block\(4\): n_in must be a multiple of 4, got 30"),
        ((32, 30, 8), r"graph block\(4\): n_out must be a multiple of 4, got 30"),
        ((32, 32, 6), r"degree must be a multiple of 4, got 6"),
        ((32, 32, 3), r"degree must be a multiple of 4, got 3"),
    ],
)
def test_sizes_and_degrees_must_be_multiples(sizes, rule):
    with pytest.raises(ValueError, match=rule):
        draw_edges("block(4)", *sizes)


def test_blocks_of_blocks():
    edges = draw_edges("block(2, block(2, xnet))", 16, 16, 4, 3)
    assert edges.block == (2, 2)
    assert (edges.matrix() == draw_edges("block(4, xnet)", 16, 16, 4, 3).matrix()).all()
