"""Exact degrees, no double edges, and the best of several tries."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparseq.graphs import Edges, draw_edges, graph_of, regular
from sparseq.graphs.expansion import draw_subsets, neighborhoods, padded
from sparseq.graphs.sampling import stream
from tests.graphs.drawing import assert_simple, digest

SIZES = [
    (1, 1, 1),
    (1, 7, 1),
    (7, 1, 1),
    (2, 2, 1),
    (13, 13, 6),
    (13, 13, 7),
    (31, 17, 5),
    (17, 31, 16),
    (64, 48, 24),
    (48, 64, 47),
    (100, 3, 2),
    (40, 40, 39),
]


@pytest.mark.parametrize(("n_in", "n_out", "degree"), SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_degrees(n_in, n_out, degree, seed):
    edges = draw_edges("regular(tries=3)", n_in, n_out, degree, seed)
    assert_simple(edges)
    degrees = [edges.in_degrees(), edges.out_degrees()]
    larger, smaller = degrees if n_in > n_out else degrees[::-1]
    assert (larger == degree).all()
    mean = max(n_in, n_out) * degree / min(n_in, n_out)
    assert set(smaller) <= {math.floor(mean), math.ceil(mean)}
    assert len(edges) == max(n_in, n_out) * degree


def test_which_node_has_one_more_is_random():
    extra = np.zeros(3)
    for seed in range(60):
        degrees = draw_edges("regular(tries=1)", 10, 3, 1, seed).out_degrees()
        extra += degrees - degrees.min()
    assert extra.sum() == 60
    assert extra.min() > 8


@pytest.mark.parametrize("degree", [3, 6, 10])
def test_every_edge_is_as_likely(degree):
    draws, nodes = 600, 12
    counts = sum(
        draw_edges(f"regular(pick={s})", nodes, nodes, degree).matrix().astype(int)
        for s in range(draws)
    )
    p = degree / nodes
    assert np.abs(counts - draws * p).max() < 5 * np.sqrt(draws * p * (1 - p))


def test_the_best_of_the_tries_is_picked():
    best = draw_edges("regular", 48, 40, 3, 4)
    single = [draw_edges(f"regular(pick={number})", 48, 40, 3, 4) for number in range(100)]
    sets = [draw_subsets(48, 1000, "regular", "large", 4)]
    sets += [draw_subsets(40, 1000, "regular", "small", 4)]
    reach = [sum(reach_of(graph, *sets)) for graph in single]
    pick = int(np.argmax(reach))
    assert best.graph == f"regular(pick={pick})"
    assert digest(best) == digest(single[pick])
    assert np.ptp(reach) > 0


def reach_of(edges, from_inputs, from_outputs):
    swapped = edges.reversed()
    yield neighborhoods(from_inputs, padded(edges.out_degrees(), edges.inputs, edges.n_in))
    yield neighborhoods(from_outputs, padded(edges.in_degrees(), swapped.inputs, edges.n_out))


def test_a_try_does_not_depend_on_those_drawn_with_it(monkeypatch):
    together = [digest(Edges.from_matrix(near_far)) for near_far in matrices(range(8))]
    monkeypatch.setattr(regular, "CELLS_AT_ONCE", 1)
    assert [digest(Edges.from_matrix(m)) for m in matrices(range(8))] == together
    assert [digest(Edges.from_matrix(m)) for m in matrices([5])] == together[5:6]


def matrices(tries):
    for graph in regular._drawn((40, 30, 9), 0, tries):
        matrix = np.zeros((40, 30), np.bool_)
        np.put_along_axis(matrix, graph, True, axis=1)
        yield matrix


def test_switching_removes_double_edges_and_keeps_all_degrees():
    key = np.stack([stream("t", seed) for seed in range(5)])
    far = np.sort(np.tile(np.repeat(np.arange(8), 3), 5 * 2).reshape(5, 16, 3), axis=2)
    before = [np.bincount(graph.ravel()) for graph in far]  # every edge is triple
    regular._switch_doubles(far, key, 8)
    rows = np.sort(far, axis=2)
    assert (np.diff(rows, axis=2) > 0).all()
    assert all((np.bincount(g.ravel()) == b).all() for g, b in zip(far, before, strict=True))


def test_tries_and_samples_can_be_set():
    assert draw_edges("regular(tries=1)", 32, 32, 3).graph == "regular(pick=0)"
    drawn = {draw_edges(f"regular(samples={n})", 32, 32, 3).graph for n in (1, 10, 1000)}
    assert len(drawn) > 1
    assert graph_of("regular").tries == 100
    assert graph_of("regular").samples == 1000
