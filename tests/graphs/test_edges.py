"""Edges as data."""

from __future__ import annotations

import numpy as np
import pytest

from sparseq.graphs import Edges
from tests.graphs.drawing import assert_simple


@pytest.fixture
def matrix():
    return np.random.default_rng(0).random((5, 7)) < 0.4


def test_a_matrix_and_back(matrix):
    edges = Edges.from_matrix(matrix)
    assert_simple(edges)
    assert (edges.n_in, edges.n_out, len(edges)) == (7, 5, matrix.sum())
    assert edges.density == matrix.mean()
    assert (edges.matrix() == matrix).all()
    assert (edges.out_degrees() == matrix.sum(1)).all()
    assert (edges.in_degrees() == matrix.sum(0)).all()
    assert (np.diff(edges.row_ptr) == matrix.sum(1)).all()
    assert edges.row_ptr.dtype == np.int32


def test_reversed(matrix):
    edges = Edges.from_matrix(matrix, "name").expanded(2, 3)
    swapped = edges.reversed()
    assert_simple(swapped)
    assert (swapped.matrix() == edges.matrix().T).all()
    assert (swapped.block, swapped.graph) == ((3, 2), "name")


@pytest.mark.parametrize("block", [(1, 1), (4, 4), (3, 1), (1, 2)])
def test_blocks(matrix, block):
    grid = Edges.from_matrix(matrix)
    edges = grid.expanded(*block, graph="big")
    assert_simple(edges)
    assert (edges.matrix() == np.kron(matrix, np.ones(block, np.bool_))).all()
    assert (edges.block, edges.graph) == (block, "big")
    assert (edges.grid().matrix() == matrix).all()


def test_no_edges():
    edges = Edges.from_matrix(np.zeros((3, 2), np.bool_))
    assert (len(edges), edges.density, edges.row_ptr.tolist()) == (0, 0, [0, 0, 0, 0])
    assert len(edges.expanded(2, 2).reversed().grid()) == 0
