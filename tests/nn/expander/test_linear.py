"""Expander layers compute the same as their dense twins with zeros off the edges."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparseq
from sparseq.graphs import draw_edges
from sparseq.nn import (
    ExpanderConv1d,
    ExpanderConv2d,
    ExpanderLinear,
    ExpanderQConv1d,
    ExpanderQConv2d,
    ExpanderQLinear,
    QConv1d,
    QConv2d,
    QLinear,
    to_dense,
)
from tests.nn.expanders import CONVS, GRAPHS, inputs, make, over_graphs, over_kinds, small

TWINS = {
    ExpanderLinear: nn.Linear,
    ExpanderQLinear: QLinear,
    ExpanderConv1d: nn.Conv1d,
    ExpanderConv2d: nn.Conv2d,
    ExpanderQConv1d: QConv1d,
    ExpanderQConv2d: QConv2d,
}


@over_graphs
@over_kinds
def test_forward_and_gradients_are_those_of_the_dense_twin(kind, graph):
    layer = make(kind, graph, dtype=torch.float64)
    twin, x = layer.to_dense(), inputs(layer)
    results = []
    for module in (layer, twin):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.square().sum().backward()
        results.append((y, leaf.grad, module.bias.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    gradients = make(kind, graph, dtype=torch.float64)
    gradients.load_state_dict({"weight": twin.weight.grad, "bias": twin.bias})
    torch.testing.assert_close(layer.values.grad, gradients.values.detach())


@pytest.mark.parametrize("graph", ["xnet", "regular(tries=2)", "block(2)", "group(2)"])
@over_kinds
def test_gradcheck(kind, graph):
    layer = small(kind, 4, 8, 2, graph, dtype=torch.float64)
    tensors = (inputs(layer, 3).requires_grad_(), layer.values.detach().requires_grad_())

    def function(x, values):
        return torch.func.functional_call(layer, {"values": values}, (x,))

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@over_graphs
def test_the_pattern_is_the_graph(graph):
    layer = make(ExpanderLinear, graph)
    edges = draw_edges(graph, 32, 48, 4, 3)
    matrix = torch.from_numpy(edges.matrix())
    assert torch.equal(layer.mask(), matrix)
    assert torch.equal(layer.dense_weight() != 0, matrix)
    assert (layer.edges.matrix() == edges.matrix()).all()
    assert (layer.edges.graph, layer.edges.block) == (edges.graph, edges.block)
    assert layer.density == edges.density
    assert layer.nnz == len(edges)
    assert layer.op == GRAPHS[graph]


@over_graphs
def test_a_quaternion_is_an_edge(graph):
    layer = make(ExpanderQLinear, graph)
    edges = draw_edges(graph, 32, 48, 4, 3)
    matrix = torch.from_numpy(edges.matrix()).expand(4, 48, 32)
    assert torch.equal(layer.mask(), matrix)
    assert torch.equal(layer.dense_weight() != 0, matrix)
    assert (layer.edges.matrix() == edges.matrix()).all()
    assert layer.values.shape == (len(edges), 4)
    assert layer.density == edges.density


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 7, 3), (7, 1, 2), (13, 11, 5), (11, 13, 100)])
@pytest.mark.parametrize("graph", ["random", "xnet", "regular", "circulant", "radix"])
@over_kinds
def test_awkward_sizes(kind, graph, sizes):
    layer = small(kind, *sizes, graph)
    x = inputs(layer, 3).requires_grad_()
    x = x if kind in CONVS else x.expand(2, *x.shape)
    y = layer(x)
    torch.testing.assert_close(y, layer.to_dense()(x), rtol=1e-4, atol=1e-5)
    y.sum().backward()
    assert layer(x[:0]).shape == (0, *y.shape[1:])


def test_a_graph_without_edges():
    layer = ExpanderLinear(
        2,
        40,
        1,
        "random",
        seed=next(seed for seed in range(100) if not len(draw_edges("random", 2, 40, 1, seed))),
    )
    assert torch.equal(layer(torch.randn(3, 2)), torch.zeros(3, 40))
    assert layer.to_dense().weight.count_nonzero() == 0


@over_kinds
def test_to_dense_is_exact_and_its_state_can_be_loaded(kind):
    layer = make(kind, "block(4, xnet)", dtype=torch.bfloat16).eval()
    layer.bias.requires_grad_(False)
    nn.init.normal_(layer.bias)
    dense = to_dense(nn.Sequential(layer))[0]
    assert type(dense) is TWINS[kind]
    assert (dense.training, dense.bias.requires_grad) == (False, False)
    again = make(kind, "block(4, xnet)", dtype=torch.bfloat16)
    again.load_state_dict(dense.state_dict())
    assert all(torch.equal(v, layer.state_dict()[k]) for k, v in again.state_dict().items())


@over_kinds
def test_compress_and_profile_know_the_layer(kind):
    model = nn.Sequential(make(kind, "block(4, xnet)"), nn.ReLU())
    x = inputs(model[0])
    small = sparseq.compress(model)
    assert type(small[0]) is kind
    assert torch.equal(small(x), model(x))
    table = sparseq.profile(model, x, repeats=1)
    (row,) = table.rows
    assert (row.kind, row.nnz, row.density) == (kind.__name__, model[0].nnz, model[0].density)
    assert row.kernel.split()[0] == model[0].op
    assert row.sparse_ms is not None


@pytest.mark.parametrize("graph", ["xnet", "block(8, xnet)"])
def test_he_uses_the_number_of_edges(graph):
    layer = ExpanderLinear(512, 1024, 64, graph)
    fan = torch.from_numpy(layer.edges.out_degrees())
    rows = layer.dense_weight().detach().square().sum(1)
    assert rows[fan > 0].mean().item() == pytest.approx(2, rel=0.05)
    assert layer.bias.count_nonzero() == 0
    dense = ExpanderLinear(512, 1024, 64, graph, init="dense_fan")
    assert dense.values.var().item() == pytest.approx(2 / 512, rel=0.05)


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("graph", ["regular(tries=2)", "block(4, xnet)"])
def test_an_edge_is_a_slice_of_the_kernel(kind, graph):
    layer = make(kind, graph)
    edges = draw_edges(graph, 32, 48, 4, 3)
    slices = layer.mask().flatten(-len(CONVS[kind]))
    slices = slices[0] if slices.dim() == 4 else slices
    assert torch.equal(slices.all(2), torch.from_numpy(edges.matrix()))
    assert torch.equal(slices.any(2), slices.all(2))
    assert (layer.edges.matrix() == edges.matrix()).all()
    assert layer.density == edges.density
    assert "degree=4" in repr(layer)


@pytest.mark.parametrize("init", ["he", "dense_fan"])
def test_the_fan_in_of_a_convolution_counts_all_taps(init):
    layer = ExpanderConv2d(128, 256, 3, 32, init=init)
    fan = 9 * (128 if init == "dense_fan" else 32)
    assert layer.values.var().item() == pytest.approx(2 / fan, rel=0.05)


@pytest.mark.parametrize(
    "options",
    [{"stride": 2, "padding": 0}, {"padding": "same"}, {"padding_mode": "circular", "dilation": 2}],
)
def test_convolutions_have_the_settings_of_their_twin(options):
    layer = make(ExpanderConv2d, **options, dtype=torch.float64)
    x = torch.randn(2, 32, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.to_dense()(x))
    torch.testing.assert_close(layer(x[0]), layer(x)[0])


def test_quaternion_he_gives_variance_two():
    layer = ExpanderQLinear(1024, 2048, 32)
    x = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0))
    assert layer(x).var().item() == pytest.approx(2, rel=0.05)
    dense = ExpanderQLinear(1024, 2048, 32, init="dense_fan")
    ratio = dense.values.square().mean() / layer.values.square().mean()
    assert ratio.item() == pytest.approx(layer.density, rel=0.1)


@over_kinds
def test_initial_values_follow_the_generator(kind):
    drawn = [
        make(kind, generator=torch.Generator().manual_seed(seed)).values.detach()
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@over_kinds
def test_training_lowers_the_loss(kind):
    layer = make(kind, "regular(tries=2)")
    before = layer.mask()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    x, losses = inputs(layer), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = layer(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert torch.equal(layer.mask(), before)
    assert optimizer.state[layer.values]["exp_avg"].shape == layer.values.shape


def test_errors():
    with pytest.raises(ValueError, match=r"unknown ExpanderLinear init 'best'.*he, dense_fan"):
        ExpanderLinear(8, 8, 2, init="best")
    with pytest.raises(ValueError, match="unknown graph 'petersen'"):
        ExpanderLinear(8, 8, 2, "petersen")
    with pytest.raises(ValueError, match="graph regular: degree must be an integer of at least 1"):
        ExpanderLinear(8, 8, 0)
    with pytest.raises(ValueError, match=r"graph block\(3\): n_out must be a multiple of 3, got 8"):
        ExpanderLinear(9, 8, 3, "block(3)")
    with pytest.raises(ValueError, match="ExpanderQLinear: in_features must be divisible by 4"):
        ExpanderQLinear(10, 8, 2)
    with pytest.raises(ValueError, match="x must have 8 features"):
        ExpanderLinear(8, 4, 2)(torch.zeros(2, 4))


def test_repr():
    text = repr(ExpanderLinear(8, 12, 2, "xnet", seed=5, bias=False))
    assert "in_features=8, out_features=12, bias=False, density=0.1667" in text
    assert "degree=2, graph=xnet, seed=5" in text
