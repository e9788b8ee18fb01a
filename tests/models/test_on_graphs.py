"""VGG16-BN and residual networks with layers on graphs."""

import pytest
import torch
from torch import nn

import sparseq
from sparseq.models import build
from sparseq.nn.expander.layer import ExpanderLayer

# percent of the weights kept in the 13 convolutions and the hidden layer, simple graphs
DENSITIES = {
    "regular": {3: 0.77, 15: 3.81, 30: 7.62, 60: 15.22},
    "xnet": {3: 0.68, 15: 3.40, 30: 6.80, 60: 13.60},
}
QUICK = {"regular": "regular(tries=1)", "xnet": "xnet", "random": "random"}


def expander_layers(model):
    return [module for module in model.modules() if isinstance(module, ExpanderLayer)]


@pytest.mark.parametrize("degree", [3, 15, 30, 60])
@pytest.mark.parametrize("graph", sorted(DENSITIES))
def test_vgg16bn_has_the_published_densities(graph, degree):
    layers = expander_layers(build("vgg16bn", graph=QUICK[graph], degree=degree))
    assert len(layers) == 14
    kept = sum(layer.values.numel() for layer in layers)
    weights = sum(layer.mask().numel() for layer in layers)
    assert weights == 14_972_608
    assert round(100 * kept / weights, 2) == DENSITIES[graph][degree]


def test_every_layer_has_its_own_graph_that_depends_on_the_seed():
    one, same, other = (build("vgg16bn", seed=s, graph="xnet", degree=3) for s in (1, 1, 2))
    seeds = [layer.seed for layer in expander_layers(one)]
    assert len(set(seeds)) == 14
    assert seeds == [layer.seed for layer in expander_layers(same)]
    assert not set(seeds) & {layer.seed for layer in expander_layers(other)}
    for first, again in zip(expander_layers(one), expander_layers(same), strict=True):
        assert torch.equal(first.col_idx, again.col_idx)
        assert torch.equal(first.values, again.values)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_stem_and_output_of_residual_networks_stay_dense(name):
    model = build(name, graph="xnet", degree=3)
    dense = {
        path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    assert dense == {"stem", "out"}
    paths = [path for path, module in model.named_modules() if isinstance(module, ExpanderLayer)]
    shortcuts = [path for path in paths if "shortcut" in path]
    assert len(shortcuts) == {"resnet18": 3, "resnet50": 4}[name]
    assert all(layer.bias is None for layer in expander_layers(model))


@pytest.mark.parametrize("graph", sorted(QUICK))
@pytest.mark.parametrize(("name", "size"), [("vgg16bn", 32), ("resnet18", 9)])
def test_trains_and_survives_a_file(name, size, graph, tmp_path):
    model = build(name, in_shape=(3, size, size), graph=QUICK[graph], degree=3)
    x = torch.randn(2, 3, size, size)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    sparseq.save(model, tmp_path / "m.sparseq")
    loaded = sparseq.load(tmp_path / "m.sparseq")
    assert loaded.recipe["kwargs"]["graph"] == QUICK[graph]
    assert torch.equal(loaded(x), model(x))


def test_quaternion_networks_on_graphs(tmp_path):
    model = build("vgg16bn", "quaternion", graph="xnet", degree=3).eval()
    types = {type(layer).__name__ for layer in expander_layers(model)}
    assert types == {"ExpanderQConv2d", "ExpanderQLinear"}
    x = torch.randn(2, 3, 32, 32)
    sparseq.save(model, tmp_path / "m.sparseq")
    assert torch.equal(sparseq.load(tmp_path / "m.sparseq")(x), model(x))
    torch.testing.assert_close(sparseq.to_dense(model)(x), model(x), rtol=1e-3, atol=1e-4)


def test_models_without_graphs_reject_them():
    with pytest.raises(TypeError, match="'conv_2' does not accept graph"):
        build("conv_2", graph="xnet")
