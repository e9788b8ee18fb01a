"""Properties of every graph, and the densities of a network built from them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseq.graphs import draw_edges
from tests.graphs.drawing import CALLS, assert_simple, digest

over_graphs = pytest.mark.parametrize("graph", CALLS.values())

# edges are saved as their seeds only: a changed digest breaks every saved model
PINNED = {
    "random": "f695e9f44191fd51",
    "xnet": "6738d6157f7152ae",
    "regular": "fd06e700c5a27684",
    "circulant": "bc4646aa260c1b7b",
    "radix": "7da664314e009499",
    "block(16)": "d4af4683a06601eb",
    "group(8)": "1c77a38423b0ebfb",
    "block(8, xnet)": "c7ee4bd7b5dfebfc",
    "regular(pick=3)": "2d4b0bbebef0f4cb",
}


@pytest.mark.parametrize("graph", PINNED)
def test_graphs_never_change(graph):
    assert digest(draw_edges(graph, 96, 192, 16, seed=5)) == PINNED[graph]


@over_graphs
def test_global_random_state_is_neither_read_nor_changed(graph):
    before = draw_edges(graph, 24, 48, 4, 1)
    np.random.seed(3)
    torch.manual_seed(3)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert digest(draw_edges(graph, 24, 48, 4, 1)) == digest(before)
    assert (np.random.get_state()[1] == states[0]).all()
    assert torch.equal(torch.get_rng_state(), states[1])


@over_graphs
def test_seeds_give_different_graphs(graph):
    drawn = {digest(draw_edges(graph, 64, 64, 4, seed)) for seed in range(3)}
    assert len(drawn) == 3


@over_graphs
def test_the_name_reproduces_the_graph(graph):
    edges = draw_edges(graph, 24, 48, 4, 2)
    again = draw_edges(edges.graph, 24, 48, 4, 2)
    assert digest(again) == digest(edges)
    assert (again.graph, again.block) == (edges.graph, edges.block)


@over_graphs
@pytest.mark.parametrize("sizes", [(8, 12), (12, 8), (10, 10)])
@pytest.mark.parametrize("degree", [12, 100])
def test_large_degrees_are_clamped(graph, sizes, degree):
    edges = draw_edges(graph, *sizes, degree)
    assert edges.density == 1
    assert_simple(edges)


@pytest.mark.parametrize("graph", ["random", "xnet", "regular(tries=2)", "circulant", "radix"])
@settings(max_examples=60)
@given(
    n_in=st.integers(1, 40),
    n_out=st.integers(1, 40),
    degree=st.integers(1, 45),
    seed=st.integers(-5, 5),
)
def test_any_sizes(graph, n_in, n_out, degree, seed):
    edges = draw_edges(graph, n_in, n_out, degree, seed)
    assert (edges.n_in, edges.n_out) == (n_in, n_out)
    assert_simple(edges)
    if graph == "random":
        return
    if graph == "xnet":
        assert (edges.in_degrees() == min(degree, n_out)).all()
        return
    larger = edges.in_degrees() if n_in > n_out else edges.out_degrees()
    assert (larger == min(degree, n_in, n_out)).all()


# VGG16-BN: 13 convolutions of 3 x 3 and the first linear layer, (in, out, kernel area)
WIDTHS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
VGG16 = [*((a, b, 9) for a, b in itertools.pairwise(WIDTHS)), (512, 512, 1)]


@pytest.mark.parametrize(
    ("graph", "percent"),
    [("regular(tries=1)", [0.77, 3.81, 7.62, 15.22]), ("xnet", [0.68, 3.40, 6.80, 13.60])],
)
def test_densities_of_vgg16(graph, percent):
    total = sum(n_in * n_out * area for n_in, n_out, area in VGG16)
    for degree, expected in zip([3, 15, 30, 60], percent, strict=True):
        edges = [area * len(draw_edges(graph, n, m, degree)) for n, m, area in VGG16]
        assert round(100 * sum(edges) / total, 2) == expected
