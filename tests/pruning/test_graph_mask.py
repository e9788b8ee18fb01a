"""Masks from graphs: one graph for each layer, complete kernel slices and quaternions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseq.compression.sparsify import compress
from sparseq.graphs import draw_edges
from sparseq.nn import QLinear, SparseLinear, SparseQLinear, to_dense
from sparseq.pruning import Mask
from sparseq.seeds import derive_seed


def edges_of(name, n_in, n_out, degree=3, seed=0, graph="xnet"):
    layer_seed = derive_seed("Mask.from_graph", seed, name)
    return torch.from_numpy(draw_edges(graph, n_in, n_out, degree, layer_seed).matrix())


def test_a_linear_layer():
    mask = Mask.from_graph(nn.Linear(20, 10), "xnet", 3)
    assert list(mask) == ["weight"]
    assert torch.equal(mask["weight"], edges_of("weight", 20, 10))
    assert mask["weight"].sum(0).tolist() == [3] * 20


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_an_edge_is_a_complete_kernel_slice(kind):
    mask = Mask.from_graph(kind(8, 12, 3), "xnet", 3)["weight"]
    slices = mask.flatten(2)
    assert torch.equal(slices.all(2), edges_of("weight", 8, 12))
    assert torch.equal(slices.all(2), slices.any(2))


def test_grouped_convolutions_have_a_graph_of_the_channels_within_a_group():
    mask = Mask.from_graph(nn.Conv2d(8, 12, 3, groups=2), "xnet", 3)["weight"]
    assert torch.equal(mask[:, :, 0, 0], edges_of("weight", 4, 12))


def test_a_transposed_convolution_has_its_inputs_first():
    mask = Mask.from_graph(nn.ConvTranspose2d(8, 12, 3), "xnet", 3)["weight"]
    assert torch.equal(mask[:, :, 1, 2].t(), edges_of("weight", 8, 12))
    assert mask[:, :, 0, 0].sum(1).tolist() == [3] * 8


def test_an_edge_is_a_complete_quaternion():
    mask = Mask.from_graph(QLinear(32, 24), "xnet", 3)["weight"]
    assert torch.equal(mask, edges_of("weight", 8, 6).expand(4, 6, 8))


def network():
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), QLinear(16, 16), nn.Linear(16, 16))


def test_each_layer_has_its_own_graph():
    mask = Mask.from_graph(network(), "xnet", 3, exclude="2")
    assert not torch.equal(mask["0.weight"], mask["3.weight"])
    assert set(mask) == {"0.weight", "3.weight"}
    assert mask == Mask.from_graph(network(), "xnet", 3, exclude="2")
    assert mask != Mask.from_graph(network(), "xnet", 3, seed=1, exclude="2")


def test_a_masked_network_becomes_a_sparse_one():
    model = network()
    mask = Mask.from_graph(model, "regular(tries=2)", 2, exclude="@last")
    small = compress(model, mask, "sparse")
    assert [type(module) for module in small] == [SparseLinear, nn.ReLU, SparseQLinear, nn.Linear]
    assert small[2].granularity == "quaternion"
    assert mask.layer_densities() == {"0.weight": 2 / 16, "2.weight": 2 / 4}
    kept = Mask.from_zeros(to_dense(small[:1]))
    assert torch.equal(kept["0.weight"], mask["0.weight"])


def test_errors_are_those_of_the_graph():
    with pytest.raises(ValueError, match="unknown graph 'petersen'"):
        Mask.from_graph(network(), "petersen", 3)
    with pytest.raises(ValueError, match="graph xnet: degree must be an integer of at least 1"):
        Mask.from_graph(network(), "xnet", 0)
    with pytest.raises(ValueError, match="exclude must match one of"):
        Mask.from_graph(network(), "xnet", 3, exclude="head")
