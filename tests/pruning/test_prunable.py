"""Which parameters may be pruned, and how some are excluded."""

from __future__ import annotations

import pytest
from torch import nn

from sparseq.nn import SparseLinear, SparseQLinear
from sparseq.nn.convert import to_dense
from sparseq.nn.expander.linear import ExpanderLinear, ExpanderQLinear
from sparseq.nn.quaternion.linear import QLinear
from sparseq.pruning import Mask, prune
from sparseq.pruning.prunable import prunable_parameters, quaternion_names


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), QLinear(8, 8))
        self.downsample = nn.ConvTranspose2d(8, 8, 1)
        self.embedding = nn.Embedding(10, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.fc = nn.Linear(8, 10)


ALL = [
    "stem.weight",
    "block.0.weight",
    "block.2.weight",
    "downsample.weight",
    "attention.out_proj.weight",
    "fc.weight",
]


def test_weights_of_linear_conv_and_quaternion_layers_in_order():
    model = Residual()
    parameters = prunable_parameters(model)
    assert list(parameters) == ALL
    assert parameters["fc.weight"] is model.fc.weight
    assert quaternion_names(model) == {"block.2.weight"}


def test_a_single_layer_is_a_model():
    assert list(prunable_parameters(nn.Linear(2, 3))) == ["weight"]
    assert quaternion_names(QLinear(4, 4)) == {"weight"}
    assert prunable_parameters(nn.ReLU()) == {}


def test_shared_layers_and_weights_count_once():
    layer = nn.Linear(4, 4)
    assert list(prunable_parameters(nn.Sequential(layer, nn.ReLU(), layer))) == ["0.weight"]
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    model[1].weight = model[0].weight
    assert list(prunable_parameters(model)) == ["0.weight"]  # as in named_parameters()


@pytest.mark.parametrize(
    ("exclude", "excluded"),
    [
        ("fc.weight", ["fc.weight"]),
        (["fc"], ["fc.weight"]),
        (("block.*", "fc"), ["block.0.weight", "block.2.weight", "fc.weight"]),
        ("@first", ["stem.weight"]),
        (["@last", "@shortcut"], ["downsample.weight", "fc.weight"]),
        ("*", ALL),
        ((), []),
    ],
)
def test_exclude(exclude, excluded):
    included = prunable_parameters(Residual(), exclude)
    assert list(included) == [name for name in ALL if name not in excluded]


@pytest.mark.parametrize("exclude", ["head", ["fc", "conv*"], "bias", "embedding"])
def test_a_pattern_that_matches_nothing_is_rejected_with_the_names(exclude):
    with pytest.raises(
        ValueError, match=r"stem.weight.*fc.weight.*@first.*got '(head|conv|bias|e)"
    ):
        prunable_parameters(Residual(), exclude)


def test_lazy_layers_are_rejected():
    with pytest.raises(ValueError, match=r"must be initialized.*'1'"):
        prunable_parameters(nn.Sequential(nn.ReLU(), nn.LazyLinear(3)))


def with_sparse_layers():
    return nn.Sequential(
        SparseLinear.from_dense(nn.Linear(8, 8)),
        SparseQLinear.from_dense(QLinear(8, 8)),
        ExpanderLinear(8, 8, 2),
        ExpanderQLinear(8, 8, 1),
        nn.Linear(8, 8),
    )


@pytest.mark.parametrize("entry", [prunable_parameters, prune, Mask.ones])
def test_sparse_layers_are_rejected_by_name(entry):
    names = r"0 \(SparseLinear\), 1 \(SparseQLinear\), 2 \(ExpanderLinear\), 3 \(ExpanderQ"
    with pytest.raises(ValueError, match=rf"sparseq.to_dense.*got {names}"):
        entry(with_sparse_layers())
    with pytest.raises(ValueError, match=r"got the model \(SparseLinear\)"):
        entry(with_sparse_layers()[0])


def test_sparse_layers_may_be_excluded_or_made_dense():
    model = with_sparse_layers()
    assert list(prunable_parameters(model, ["0", "1.values", "[23]"])) == ["4.weight"]
    assert len(prune(to_dense(model), density=0.1, keep_at_least=1)) == 5
