"""The work of drawing a graph is bounded, whatever its name asks for."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from sparseq.graphs import draw_edges, graph_of
from sparseq.graphs.limit import drawing_limit
from sparseq.nn import ExpanderConv2d, ExpanderLinear

MILLION = 10**6
TOO_MUCH = [
    ("regular", MILLION, MILLION, 3),
    ("regular(pick=7)", MILLION, MILLION, 3),
    ("regular(tries=1000000000)", 64, 64, 4),
    ("regular(samples=10000000000)", 64, 64, 4),
    ("random", MILLION, MILLION, 3),
    ("xnet", MILLION, MILLION, 3),
    ("circulant", MILLION, MILLION, MILLION),
    ("radix", MILLION, MILLION, MILLION),
    ("block(1000000)", MILLION, MILLION, MILLION),
    ("group(1000, xnet)", 10**9, MILLION, 1000),
]


@pytest.mark.parametrize(("name", "n_in", "n_out", "degree"), TOO_MUCH)
def test_too_much_work_is_refused_at_once(name, n_in, n_out, degree):
    with pytest.raises(ValueError, match=r"graph: .* must be drawn by writing at most 1,099,"):
        draw_edges(name, n_in, n_out, degree)


def test_layers_refuse_it_too():
    with pytest.raises(ValueError, match="must be drawn by writing at most"):
        ExpanderLinear(MILLION, MILLION, 3)
    with pytest.raises(ValueError, match="must be drawn by writing at most"):
        ExpanderConv2d(8, 8, 10**6, 2, "circulant")


def test_large_graphs_of_few_edges_are_drawn():
    for name in ("circulant", "radix"):
        assert len(draw_edges(name, MILLION, MILLION, 3)) == 3 * MILLION


DRAWN = ["regular(pick=3)", "random", "xnet", "circulant", "radix"]


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("sizes", [(512, 512, 16), (1024, 256, 100), (256, 1024, 3)])
def test_the_work_bounds_the_memory(name, sizes):
    tracemalloc.start()
    draw_edges(name, *sizes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * graph_of(name).work(*sizes) + 2**24  # and what numpy takes at a time


def test_a_limit_holds_for_all_graphs_of_a_block_and_ends_with_it():
    work = graph_of("xnet").work(100, 100, 5)
    with drawing_limit(2 * work, "more"):
        draw_edges("xnet", 100, 100, 5)
        draw_edges("xnet", 100, 100, 5, seed=1)
        draw_edges("xnet", 100, 100, 5)  # drawn before, so it costs nothing
        with pytest.raises(ValueError, match=r"at most 0 bytes \(more raises the limit\)"):
            draw_edges("xnet", 100, 100, 5, seed=2)
    draw_edges("xnet", 100, 100, 5, seed=2)


def test_layers_of_the_same_graph_share_no_memory():
    with drawing_limit(10**9, "more"):
        one, other = (ExpanderLinear(16, 16, 3) for _ in range(2))
    assert np.array_equal(one.edges.inputs, other.edges.inputs)
    assert one.pattern.col_idx.data_ptr() != other.pattern.col_idx.data_ptr()


@pytest.mark.parametrize("text", ["\0", "(" * 10_000, "block(1, " * 5000, "-" * 100_000 + "1"])
def test_names_that_no_parser_takes_are_malformed(text):
    with pytest.raises(ValueError, match="name must be like regular"):
        graph_of(text)
