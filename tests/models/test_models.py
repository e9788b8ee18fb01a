import copy
import inspect
import json

import pytest
import torch
from torch import nn

import sparseq
from sparseq.models import MODELS, STD_HPARAMS, HParams, algebras_of, build, std_hparams
from sparseq.models.user_file import accepts
from sparseq.nn.quaternion.conv import QConv2d
from sparseq.nn.quaternion.linear import QLinear
from tests.models.zoo import CLASSIFIERS, QUICK, parameter_count, quick_shape

PARAMETERS = {
    "lenet_300_100": (266_610, 67_710),
    "lenet_12": (9_550, 2_494),
    "lenet5_caffe": (431_080,),
    "conv_2": (4_301_642, 1_077_962),
    "conv_4": (2_425_930, 609_226),
    "conv_6": (2_262_602, 568_778),
    "resnet20": (272_474, 72_170),
    "mlp_50_30": (41_000,),
    "cnn_small": (563_424,),
    "vgg16bn": (14_986_698, 3_770_058),
    "resnet18": (11_173_962, 2_819_082),
    "resnet34": (21_282_122, 5_362_826),
    "resnet50": (23_520_842, 6_015_242),
    "resnet101": (42_512_970, 10_880_778),
    "resnet152": (58_156_618, 14_895_370),
    "vae": (85_183_619,),
}


@pytest.mark.parametrize("name", MODELS.names())
def test_parameter_counts(name):
    counts = tuple(parameter_count(name, algebra) for algebra in algebras_of(name))
    assert counts == PARAMETERS[name]


@pytest.mark.parametrize(("name", "algebra"), QUICK)
@pytest.mark.parametrize("grown", [0, 3])
def test_forward_and_backward(name, algebra, grown):
    """Including batches of one, and sizes that are not divisible by the poolings."""
    _, height, width = quick_shape(name)
    in_shape = (3, height + grown, width + 4 * (grown // 3))
    model = build(name, algebra, in_shape, num_classes=7)
    outputs = model(torch.randn(2, *in_shape))
    assert outputs.shape == (2, 7)
    assert outputs.isfinite().all()
    outputs.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(torch.randn(1, *in_shape)).shape == (1, 7)


@pytest.mark.parametrize(("name", "algebra"), QUICK)
def test_builders_depend_on_the_seed_and_not_on_the_global_state(name, algebra):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = build(name, algebra, seed=3).state_dict()
    builder = MODELS.get(name)
    arguments = {"algebra": algebra} if accepts(builder, "algebra") else {}
    direct = builder(**arguments, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    other = build(name, algebra, seed=4).state_dict()
    assert all(torch.equal(first[key], direct[key]) for key in first)
    assert not torch.equal(first["out.weight"], other["out.weight"])


@pytest.mark.parametrize("name", [name for name, algebra in CLASSIFIERS if algebra != "real"])
def test_output_layer_is_real_and_all_others_are_of_the_algebra(name):
    with torch.device("meta"):
        modules = list(build(name, "quaternion").modules())
    types = (QLinear, QConv2d, nn.Linear, nn.Conv2d, nn.BatchNorm2d)
    layers = [module for module in modules if isinstance(module, types)]
    assert all(isinstance(layer, QLinear | QConv2d) for layer in layers[:-1])
    assert type(layers[-1]) is nn.Linear


def test_initial_variance_is_that_of_he():
    model = build("lenet_300_100")
    assert abs(model.fc1.weight.var().item() * 784 / 2 - 1) < 0.02
    assert model.fc1.bias.abs().sum() == 0
    x = torch.randn(2000, 784, generator=torch.Generator().manual_seed(0))
    for algebra in ("real", "quaternion"):
        assert abs(build("lenet_300_100", algebra).fc1(x).var().item() / 2 - 1) < 0.1
        conv = build("conv_2", algebra).conv2
        maps = torch.randn(8, 64, 30, 30, generator=torch.Generator().manual_seed(0))
        interior = conv(maps)[:, :, 1:-1, 1:-1]
        assert abs(interior.var().item() / 2 - 1) < 0.1


@pytest.mark.parametrize(("name", "algebra"), QUICK)
def test_recorded_arguments_are_json_and_build_the_same_model(name, algebra):
    model = build(name, algebra, quick_shape(name), 3, seed=9)
    builder = json.loads(json.dumps(model.recipe))
    twin = build(builder["name"], **builder["kwargs"])
    assert twin.recipe == model.recipe
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))


@pytest.mark.parametrize(("name", "algebra"), QUICK)
def test_copies_and_files_have_the_same_outputs(name, algebra, tmp_path):
    shape = quick_shape(name)
    model = build(name, algebra, shape)
    x = torch.randn(2, *shape)
    model(x)  # updates the running statistics of normalization
    model.eval()
    sparseq.save(model, tmp_path / "m.sparseq")
    loaded = sparseq.load(tmp_path / "m.sparseq")
    assert loaded.recipe == model.recipe
    for twin in (copy.deepcopy(model), loaded):
        assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize("algebra", ["real", "quaternion"])
def test_compiles_in_one_piece(algebra):
    model = build("conv_2", algebra, (3, 8, 8)).eval()
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_follows_the_contract(name):
    defaults = {key: p.default for key, p in inspect.signature(MODELS.get(name)).parameters.items()}
    assert {"in_shape", "seed"} <= defaults.keys()
    assert isinstance(defaults["in_shape"], tuple)
    expected = {"algebra": "real", "num_classes": 10, "seed": 0}
    assert {key: defaults[key] for key in defaults.keys() & expected} == {
        key: value for key, value in expected.items() if key in defaults
    }
    assert isinstance(std_hparams(name), HParams)


def test_the_standard_hyperparameters():
    assert STD_HPARAMS.names() == MODELS.names()
    assert std_hparams("lenet_300_100") == HParams(40, 60, "adam", 1.2e-3)
    assert [std_hparams(f"conv_{n}").lr for n in (2, 4, 6)] == [2e-4, 3e-4, 3e-4]
    assert std_hparams("resnet20") == HParams(80, 128, "sgd", 1e-2, 0.9, 1e-4)
    for name in ("vgg16bn", "resnet18"):
        usual = HParams(300, 128, "sgd", 0.05, 0.9, 5e-4, True, "step", 30, 0.5)
        assert std_hparams(name) == usual


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name_or_file": "lenet"}, r"unknown model 'lenet'; choose one of: .*lenet_12, lenet_300"),
        ({"algebra": "octonion"}, "unknown algebra 'octonion'; choose one of: real, quaternion"),
        ({"in_shape": ()}, "in_shape must have sizes of at least 1"),
        ({"in_shape": (1, 0)}, "in_shape must have sizes of at least 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"in_shape": (1, 3, 3), "algebra": "quaternion"}, "divisible by 4"),
        ({"name_or_file": "conv_6", "in_shape": (3, 7, 9)}, "conv_6: in_shape .* at least 8x8"),
        ({"name_or_file": "conv_2", "in_shape": (64,)}, "conv_2: in_shape must be .*height"),
        ({"name_or_file": "vgg16bn", "in_shape": (1, 28, 28)}, "vgg16bn: .*at least 32x32"),
        ({"name_or_file": "lenet5_caffe", "in_shape": (1, 8, 8)}, "at least 16x16"),
        ({"name_or_file": "resnet18", "num_classes": 0}, "num_classes must be at least 1"),
        ({"name_or_file": "resnet18", "stem": "large"}, "unknown resnet18 stem 'large'"),
        ({"name_or_file": "conv_2", "in_shape": (2, 8, 8), "algebra": "quaternion"}, "in_channels"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**{"name_or_file": "lenet_12", **kwargs})
    with pytest.raises(ValueError, match="unknown model"):
        std_hparams("lenet")


def test_unsupported_arguments_are_never_silently_ignored():
    with pytest.raises(TypeError, match=r"'cnn_small' does not accept .*algebra.*'quaternion'"):
        build("cnn_small", "quaternion")
    with pytest.raises(TypeError, match="'conv_2' does not accept stem"):
        build("conv_2", stem="cifar")
