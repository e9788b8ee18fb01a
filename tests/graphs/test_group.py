"""Outputs that share their inputs."""

from __future__ import annotations

import pytest

from sparseq.graphs import draw_edges


@pytest.mark.parametrize("of", ["xnet", "regular(tries=2)", "circulant", "radix"])
@pytest.mark.parametrize(("n_in", "n_out"), [(24, 24), (16, 64), (16, 32), (64, 16)])
def test_a_group_reads_one_set(of, n_in, n_out):
    edges = draw_edges(f"group(4, {of})", n_in, n_out, 8)
    assert edges.block == (4, 1)
    rows = edges.matrix().reshape(-1, 4, n_in)
    assert (rows == rows[:, :1]).all()
    ungrouped = draw_edges(of, n_in, n_out, 8)
    assert len(edges) == len(ungrouped), "as many edges as without groups"


def test_groups_differ():
    rows = draw_edges("group(4)", 64, 64, 8).matrix()[::4]
    assert len({row.tobytes() for row in rows}) == 16


def test_degrees_of_a_regular_graph():
    edges = draw_edges("group(8)", 256, 256, 32)
    assert set(edges.in_degrees()) == set(edges.out_degrees()) == {32}
    edges = draw_edges("group(4)", 20, 32, 5)  # 32 outputs of 5, 8 groups, 20 inputs of 2
    assert set(edges.out_degrees()) == {5}
    assert set(edges.in_degrees()) == {8}


def test_sizes_and_degrees_must_be_multiples():
    with pytest.raises(ValueError, match=r"graph group\(4\): n_out must be a multiple of 4"):
        draw_edges("group(4)", 16, 18, 4)
    with pytest.raises(ValueError, match=r"group\(4\): degree must be a multiple of 4, got 3"):
        draw_edges("group(4)", 16, 16, 3)
    with pytest.raises(ValueError, match=r"degree must be a multiple of 5, got 8"):
        draw_edges("group(4)", 20, 32, 8)  # 20 inputs and 8 groups: the inputs are more


def test_graphs_of_graphs_keep_the_number_of_edges():
    edges = draw_edges("group(4, block(2, xnet))", 24, 32, 8)
    assert set(edges.in_degrees()) == {8}
    edges = draw_edges("group(2, group(4, regular(tries=2)))", 32, 32, 8)
    assert set(edges.in_degrees()) == {8}
