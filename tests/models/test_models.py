import inspect
import json

import pytest
import torch
from torch import nn

from sparseq.models import MODELS, STD_HPARAMS, HParams, build, std_hparams
from sparseq.nn.quaternion import QLinear

PARAMETERS = {
    ("lenet_300_100", "real"): 266_610,
    ("lenet_300_100", "quaternion"): 67_710,
    ("lenet_12", "real"): 9_550,
    ("lenet_12", "quaternion"): 2_494,
}
EVERY = [(name, algebra) for name in MODELS.names() for algebra in ("real", "quaternion")]


@pytest.mark.parametrize(("name", "algebra"), EVERY)
def test_parameter_counts(name, algebra):
    model = build(name, algebra)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name, algebra]


@pytest.mark.parametrize(("name", "algebra"), EVERY)
@pytest.mark.parametrize("in_shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_forward_and_backward(name, algebra, in_shape):
    model = build(name, algebra, in_shape, num_classes=7)
    outputs = model(torch.randn(5, *in_shape))
    assert outputs.shape == (5, 7)
    assert outputs.isfinite().all()
    outputs.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(("name", "algebra"), EVERY)
def test_weights_are_a_function_of_the_seed_and_leave_the_global_state_alone(name, algebra):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = build(name, algebra, seed=3).state_dict()
    direct = MODELS.get(name)(algebra=algebra, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again, other = build(name, algebra, seed=3).state_dict(), build(name, algebra, seed=4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.equal(first[key], direct[key]) for key in first)
    assert not torch.equal(first["fc1.weight"], other.state_dict()["fc1.weight"])


@pytest.mark.parametrize("name", MODELS.names())
def test_output_layer_is_real_and_hidden_layers_are_of_the_algebra(name):
    model = build(name, "quaternion")
    layers = [module for module in model.modules() if isinstance(module, (QLinear, nn.Linear))]
    assert all(isinstance(layer, QLinear) for layer in layers[:-1])
    assert isinstance(layers[-1], nn.Linear)


def test_initial_variance_is_that_of_he():
    model = build("lenet_300_100")
    assert abs(model.fc1.weight.var().item() * 784 / 2 - 1) < 0.02
    assert model.fc1.bias.abs().sum() == 0
    x = torch.randn(2000, 784, generator=torch.Generator().manual_seed(0))
    quaternion = build("lenet_300_100", "quaternion")
    for net in (model, quaternion):
        assert abs(net.fc1(x).var().item() / 2 - 1) < 0.1


@pytest.mark.parametrize(("name", "algebra"), EVERY)
def test_recipe_is_json_and_builds_the_same_model(name, algebra):
    model = build(name, algebra, (1, 4, 4), 3, seed=9)
    recipe = json.loads(json.dumps(model.recipe))
    twin = build(recipe["name"], **recipe["kwargs"])
    assert twin.recipe == model.recipe
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_follows_the_contract(name):
    defaults = {key: p.default for key, p in inspect.signature(MODELS.get(name)).parameters.items()}
    assert defaults == {"algebra": "real", "in_shape": (1, 28, 28), "num_classes": 10, "seed": 0}
    assert isinstance(std_hparams(name), HParams)


def test_the_standard_hyperparameters_of_lenet():
    assert STD_HPARAMS.names() == MODELS.names()
    assert std_hparams("lenet_300_100") == HParams(40, 60, "adam", 1.2e-3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name_or_file": "lenet"}, "unknown model 'lenet'; choose one of: lenet_12, lenet_300"),
        ({"algebra": "octonion"}, "unknown algebra 'octonion'; choose one of: real, quaternion"),
        ({"in_shape": ()}, "in_shape must have sizes of at least 1"),
        ({"in_shape": (1, 0)}, "in_shape must have sizes of at least 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"in_shape": (1, 3, 3), "algebra": "quaternion"}, "divisible by 4"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**{"name_or_file": "lenet_12", **kwargs})
    with pytest.raises(ValueError, match="unknown model"):
        std_hparams("lenet")
