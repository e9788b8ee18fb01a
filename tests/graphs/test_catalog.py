"""Graphs by name."""

from __future__ import annotations

import pytest

from sparseq.graphs import draw_edges, graph_of
from sparseq.graphs.block import Block
from sparseq.graphs.group import Group
from sparseq.graphs.random import Random
from sparseq.graphs.regular import Regular
from sparseq.graphs.xnet import XNet


@pytest.mark.parametrize(
    ("text", "graph"),
    [
        ("regular", Regular()),
        (" regular( ) ", Regular()),
        ("regular(10)", Regular(10)),
        ("regular(tries=10, samples=5)", Regular(10, 5)),
        ("regular(pick=3)", Regular(pick=3)),
        ("block(16)", Block(16, Regular())),
        ("block(size=16, of=xnet)", Block(16, XNet())),
        ("block(4, regular(tries=2))", Block(4, Regular(2))),
        ("group(8, block(2, random))", Group(8, Block(2, Random()))),
    ],
)
def test_names(text, graph):
    assert graph_of(text) == graph
    assert graph_of(str(graph)) == graph
    assert graph_of(graph) is graph


def test_defaults_are_left_out_of_names():
    assert str(graph_of("block(16, regular(100))")) == "block(16)"
    assert str(graph_of("regular(7, samples=9)")) == "regular(tries=7, samples=9)"


MALFORMED = ["", "a b", "16", "block(16).of", "block(-1)", "block([1])", "None"]


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_names(text):
    with pytest.raises(ValueError, match=r"graph: name must be like regular or block\(16, xnet\)"):
        graph_of(text)


def test_unknown_graphs_list_the_registered_ones():
    for text in ("petersen", "block(4, petersen)"):
        with pytest.raises(ValueError, match=r"unknown graph 'petersen'; choose.*radix.*xnet"):
            graph_of(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("xnet(3)", "the parameters of xnet: none"),
        ("block", "the parameters of block: size, of"),
        ("block(of=xnet)", "the parameters of block: size, of"),
        ("regular(best=2)", "the parameters of regular: tries, samples, pick"),
        ("block(0)", "size must be an integer of at least 1, got 0"),
        ("group(2.5)", "size must be an integer of at least 1, got 2.5"),
        ("block(4, 5)", "of must be a graph, got 5"),
        ("regular(tries=0)", "tries must be an integer of at least 1, got 0"),
        ("regular(samples=True)", "samples must be an integer of at least 1, got True"),
        ("regular(pick='x')", "pick must be the number of a try, got x"),
    ],
)
def test_wrong_parameters(text, rule):
    with pytest.raises(ValueError, match=rule):
        graph_of(text)


@pytest.mark.parametrize("argument", ["n_in", "n_out", "degree"])
@pytest.mark.parametrize("value", [0, -3, 2.0, True, None])
def test_sizes_and_degrees_are_checked(argument, value):
    sizes = {"n_in": 4, "n_out": 4, "degree": 2, argument: value}
    with pytest.raises(ValueError, match=rf"graph xnet: {argument} must be an integer of at least"):
        draw_edges("xnet", **sizes)


def test_seeds_are_integers():
    with pytest.raises(ValueError, match=r"graph xnet: seed must be an integer, got 0\.5"):
        draw_edges("xnet", 4, 4, 2, 0.5)
    assert len(draw_edges("xnet", 4, 4, 2, -(2**80))) == 8
