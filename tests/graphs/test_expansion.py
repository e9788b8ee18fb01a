"""Expansion and spectral gap, checked against brute-force counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sparseq.formats import CSRPattern
from sparseq.graphs import Edges, draw_edges, expansion, spectral_gap
from sparseq.graphs.expansion import draw_subsets, neighborhoods, padded
from sparseq.nn import ExpanderLinear, ExpanderQLinear, SparseLinear


def members_of(subsets, samples):
    """(samples, nodes) bool."""
    members = np.unpackbits(subsets.members, axis=1, bitorder="little").T.astype(np.bool_)
    return members[:samples, :-1]


@pytest.mark.parametrize("nodes", [1, 2, 9, 40])
@pytest.mark.parametrize("samples", [1, 8, 1001])
def test_sizes_of_sets(nodes, samples):
    sizes = members_of(draw_subsets(nodes, samples, "t"), samples).sum(1)
    assert len(sizes) == samples
    assert sizes.min() >= 1
    assert sizes.max() <= (nodes + 1) // 2
    assert (np.diff(sizes) >= 0).all()


def test_sizes_and_members_are_uniform():
    members = members_of(draw_subsets(10, 20_000, "t"), 20_000)
    sizes = np.bincount(members.sum(1), minlength=6)[1:]
    assert np.abs(sizes - 4000).max() < 5 * np.sqrt(4000)
    assert np.abs(members.sum(0) - 6000).max() < 5 * np.sqrt(6000)


@pytest.mark.parametrize("graph", ["random", "xnet", "regular(tries=2)", "radix"])
@pytest.mark.parametrize(("n_in", "n_out", "degree"), [(30, 40, 2), (41, 25, 4), (64, 64, 40)])
def test_agrees_with_a_brute_force_count(graph, n_in, n_out, degree):
    edges = draw_edges(graph, n_in, n_out, degree)
    samples, matrix = 50, edges.matrix().astype(int)
    total = 0.0
    for side, nodes, adjacency in (("left", n_in, matrix.T), ("right", n_out, matrix)):
        members = members_of(draw_subsets(nodes, samples, side, 3), samples)
        reached = (members.astype(int) @ adjacency > 0).sum(1)
        total += (reached / members.sum(1)).sum()
    assert expansion(edges, samples, 3) == pytest.approx(total / (2 * samples), rel=1e-6)


def test_known_values():
    complete = Edges.from_matrix(np.ones((9, 9), np.bool_))
    sides = draw_subsets(9, 500, "left", 0), draw_subsets(9, 500, "right", 0)
    expected = np.mean([9 / members_of(side, 500).sum(1) for side in sides])
    assert expansion(complete, 500) == pytest.approx(expected, rel=1e-6)
    assert expansion(Edges.from_matrix(np.eye(8, dtype=np.bool_))) == pytest.approx(1, rel=1e-6)
    assert expansion(Edges.from_matrix(np.zeros((3, 4), np.bool_))) == 0


def exact_mean(edges):
    """The mean over all sets: node a is missed by C(n - deg a, s) of the C(n, s) sets of size s."""
    total = 0.0
    for nodes, degrees in ((edges.n_in, edges.out_degrees()), (edges.n_out, edges.in_degrees())):
        sizes = range(1, (nodes + 1) // 2 + 1)
        reached = [
            sum(1 - math.comb(nodes - int(d), s) / math.comb(nodes, s) for d in degrees) / s
            for s in sizes
        ]
        total += np.mean(reached) / 2
    return total


@pytest.mark.parametrize("graph", ["random", "xnet", "regular(tries=1)", "circulant"])
@pytest.mark.parametrize(("n_in", "n_out", "degree"), [(24, 36, 3), (31, 17, 5)])
def test_the_mean_over_all_sets(graph, n_in, n_out, degree):
    edges = draw_edges(graph, n_in, n_out, degree)
    assert expansion(edges, 40_000) == pytest.approx(exact_mean(edges), rel=0.01)


def test_nodes_without_edges_are_in_no_neighborhood():
    subsets = draw_subsets(4, 30, "t")
    neighbors = padded(np.array([0, 4, 0]), np.arange(4), 4)
    sizes = members_of(subsets, 30).sum(1)
    got = neighborhoods(subsets, neighbors) / 2**32
    assert got == pytest.approx((1 / sizes).sum(), rel=1e-6)


def test_gap_of_complete_and_disconnected_graphs():
    assert spectral_gap(Edges.from_matrix(np.ones((5, 8), np.bool_))) == pytest.approx(1)
    assert spectral_gap(draw_edges("circulant", 8, 8, 1)) == pytest.approx(0, abs=1e-12)
    assert spectral_gap(draw_edges("block(4)", 8, 8, 4)) == pytest.approx(0, abs=1e-12)
    assert spectral_gap(Edges.from_matrix(np.ones((1, 8), np.bool_))) == 1


@pytest.mark.parametrize("nodes", [6, 16])
def test_gap_of_a_cycle(nodes):
    cycle = draw_edges("radix", nodes, nodes, 2, seed=0)  # a cycle of 2 n edges
    assert spectral_gap(cycle) == pytest.approx(1 - np.cos(np.pi / nodes))


def test_gap_without_edges_at_some_nodes():
    matrix = np.zeros((4, 6), np.bool_)
    matrix[:2, :3] = True
    assert spectral_gap(Edges.from_matrix(matrix)) == pytest.approx(1)


def test_regular_graphs_expand_better_than_random_ones():
    regular, random = (draw_edges(name, 128, 128, 3, 1) for name in ("regular", "random"))
    assert expansion(regular, 4000) > expansion(random, 4000)
    assert spectral_gap(regular) > spectral_gap(random)


@pytest.mark.parametrize("measure", [expansion, spectral_gap])
def test_layers_are_measured_by_their_edges(measure):
    layer = ExpanderLinear(32, 48, 8, "block(4, xnet)", seed=1)
    assert measure(layer) == measure(draw_edges("block(4, xnet)", 32, 48, 8, 1))
    layer = ExpanderQLinear(32, 48, 3, "xnet", seed=1)
    assert measure(layer) == measure(draw_edges("xnet", 8, 12, 3, 1))
    matrix = draw_edges("xnet", 9, 7, 3).matrix()
    sparse = SparseLinear(9, 7, CSRPattern.from_mask(torch.from_numpy(matrix)))
    assert measure(sparse) == measure(Edges.from_matrix(matrix))
    with pytest.raises(ValueError, match="must be edges or a layer with edges, got Linear"):
        measure(nn.Linear(3, 3))


def test_the_estimate_follows_seed_and_samples():
    edges = draw_edges("xnet", 40, 40, 3)
    assert expansion(edges, 100, 1) == expansion(edges, 100, 1)
    assert expansion(edges, 100, 1) != expansion(edges, 100, 2)
    with pytest.raises(ValueError, match="expansion: samples must be at least 1, got 0"):
        expansion(edges, 0)
