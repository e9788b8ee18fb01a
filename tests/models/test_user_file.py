import pickle

import pytest
import torch
from torch import nn

from sparseq.models import HParams, build, std_hparams

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Sizes:
    hidden: int = 6

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(Sizes().hidden, num_classes)

def some(num_classes, seed=0):
    return Net(num_classes)

def every(**kwargs):
    net = nn.Linear(4, kwargs["num_classes"])
    net.arguments = kwargs
    return net

def greedy(width, depth=2, *, heads):
    return nn.Linear(width, depth)

def text():
    return "a network"

number = 7
instance = nn.Linear(2, 2)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_nets.py"
    path.write_text(SOURCE)
    return path


def test_a_function_gets_the_arguments_it_accepts(file):
    model = build(f"{file}:some", num_classes=3)
    assert model.layer.weight.shape == (3, 6)
    arguments = build(f"{file}:every", "quaternion", (1, 2, 2), 5, 8).arguments
    expected = {"algebra": "quaternion", "in_shape": (1, 2, 2), "num_classes": 5, "seed": 8}
    assert arguments == expected


def test_a_class_is_a_builder_too(file):
    assert build(f"{file}:Net", num_classes=2).layer.out_features == 2


def test_weights_depend_on_the_seed_and_not_on_the_global_state(file):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    nets = [build(f"{file}:some", seed=seed).layer.weight for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


def test_recorded_arguments_build_it_again_and_pickle_works(file):
    model = build(f"{file}:some", seed=4)
    twin = build(model.recipe["name"], **model.recipe["kwargs"])
    assert torch.equal(model.layer.weight, twin.layer.weight)
    assert torch.equal(pickle.loads(pickle.dumps(model)).layer.weight, model.layer.weight)


def test_a_changed_file_is_read_again(file):
    build(f"{file}:some")
    file.write_text(SOURCE.replace("hidden: int = 6", "hidden: int = 9"))
    assert build(f"{file}:some").layer.in_features == 9


def test_standard_hyperparameters_are_the_defaults(file):
    assert std_hparams(f"{file}:some") == HParams()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("{}", ValueError, "must have the form path/to/file.py:function"),
        ("{}:", ValueError, "must have the form"),
        ("{}x.py:some", FileNotFoundError, "does not exist"),
        ("{}:none", ValueError, "'none' in .* must be a function, got nothing"),
        ("{}:number", ValueError, "'number' in .* must be a function, got .* type int"),
        (
            "{}:instance",
            ValueError,
            "'instance' in .* must be a function, got .* Linear",
        ),
        ("{}:text", TypeError, "must return an nn.Module, got str"),
        ("{}:greedy", TypeError, r"needs arguments other than .*seed: width, heads"),
    ],
)
def test_errors_name_the_problem(file, name, error, message):
    with pytest.raises(error, match=message):
        build(name.format(file))


def test_algebra_is_never_silently_ignored(file):
    with pytest.raises(TypeError, match=r"argument named algebra.*'quaternion'"):
        build(f"{file}:some", "quaternion")


def test_errors_of_the_file_itself_name_it(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as caught:
            build(f"{path}:make")
        assert caught.value.__notes__ == [f"while running the model file {path}"]


def test_registered_models_are_still_modules():
    assert isinstance(build("lenet_12"), nn.Module)
