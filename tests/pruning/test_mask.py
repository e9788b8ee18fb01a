"""Mask as a value: counts, comparison, intersection, application, errors."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from sparseq.nn.quaternion.linear import QLinear
from sparseq.pruning import Mask, prune


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def alternating(*shape):
    return (torch.arange(torch.Size(shape).numel()) % 2 == 0).reshape(shape)


def test_counts_prunable_weights_only():
    mask = Mask({"0.weight": alternating(8, 6), "3.weight": torch.ones(3, 8, dtype=torch.bool)})
    assert (mask.kept, mask.total) == (48, 72)
    assert mask.density == 48 / 72
    assert mask.layer_densities() == {"0.weight": 0.5, "3.weight": 1.0}
    assert "48 of 72" in repr(mask)


def test_is_a_mapping():
    mask = Mask({"a": alternating(4), "b": alternating(2, 2)})
    assert list(mask) == ["a", "b"]
    assert len(mask) == 2
    assert "a" in mask
    assert "c" not in mask
    assert {name: keep.shape for name, keep in mask.items()}["b"] == (2, 2)
    with pytest.raises(KeyError, match=r"no parameter 'c'.*a, b"):
        mask["c"]


def test_does_not_alias_its_source():
    keep = alternating(4)
    mask = Mask({"a": keep})
    keep.zero_()
    assert mask.kept == 2


def test_ones_names_the_prunable_weights():
    mask = Mask.ones(network(), exclude="3")
    assert list(mask) == ["0.weight"]
    assert mask.density == 1


def test_from_zeros_finds_exact_zeros():
    model = network()
    with torch.no_grad():
        model[0].weight[2] = 0.0
        model[0].weight[3, 0] = float("nan")
        model[0].weight[4, 0] = -0.0
    mask = Mask.from_zeros(model)
    assert mask.total - mask.kept == 7
    assert bool(mask["0.weight"][3, 0])


def test_an_empty_mask_drops_nothing():
    assert Mask({}).density == 1
    assert Mask({"a": torch.zeros(0, 4, dtype=torch.bool)}).density == 1
    Mask({}).enforce(network()).remove()


def test_equality_is_by_content():
    mask = Mask({"a": alternating(4), "b": alternating(2)})
    assert mask == Mask({"b": alternating(2), "a": alternating(4)})
    assert mask != Mask({"a": alternating(4)})
    assert mask != Mask({"a": ~alternating(4), "b": alternating(2)})
    assert mask != Mask({"a": alternating(2, 2), "b": alternating(2)})
    assert mask != "a mask"
    assert mask == copy.deepcopy(mask)
    assert mask == pickle.loads(pickle.dumps(mask))
    assert mask == mask.to("cpu")


def test_intersection():
    first = Mask({"a": torch.tensor([True, True, False]), "b": torch.tensor([True])})
    second = Mask({"a": torch.tensor([False, True, True]), "c": torch.tensor([False])})
    joined = first & second
    assert joined["a"].tolist() == [False, True, False]
    assert bool(joined["b"])
    assert not bool(joined["c"])
    assert first["a"].tolist() == [True, True, False]


def test_intersection_needs_equal_shapes():
    with pytest.raises(ValueError, match=r"'a' must have the same shape.*\(3,\)"):
        Mask({"a": alternating(2)}) & Mask({"a": alternating(3)})
    with pytest.raises(TypeError):
        Mask({}) & {"a": alternating(3)}


@pytest.mark.parametrize("entry", [torch.ones(3), torch.ones(3, dtype=torch.uint8), [True, False]])
def test_entries_must_be_bool_tensors(entry):
    with pytest.raises(ValueError, match=r"keep\['conv.weight'\] must be a bool tensor"):
        Mask({"conv.weight": entry})


def test_an_unknown_name_is_rejected_with_the_models_names():
    with pytest.raises(ValueError, match=r"0.weight.*3.bias, got 'fc.weight'") as caught:
        Mask({"fc.weight": alternating(3)}).apply_(network())
    assert "mask" in str(caught.value)


@pytest.mark.parametrize("method", ["check", "apply_", "enforce"])
def test_a_wrong_shape_is_rejected_and_nothing_is_changed(method):
    model = network()
    before = copy.deepcopy(model.state_dict())
    mask = Mask({"0.weight": ~alternating(8, 6), "3.weight": alternating(8, 3)})
    with pytest.raises(
        ValueError, match=r"mask\['3.weight'\] must be a bool tensor of shape \(3, 8\)"
    ):
        getattr(mask, method)(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_apply_zeroes_even_nan_and_keeps_the_state_dict_keys():
    model = network()
    names = list(model.state_dict())
    with torch.no_grad():
        model[0].weight[0, 1] = float("nan")
        model[0].weight[0, 3] = float("-inf")
    kept = model[0].weight[alternating(8, 6)].clone()
    assert Mask({"0.weight": alternating(8, 6)}).apply_(model) is model
    assert not model[0].weight[~alternating(8, 6)].any()
    assert torch.equal(model[0].weight[alternating(8, 6)], kept)
    assert list(model.state_dict()) == names
    assert model(torch.randn(4, 6)).isfinite().all()


def test_quaternion_weights_are_masked_like_any():
    model = nn.Sequential(QLinear(8, 12))
    mask = prune(model, density=0.25)
    mask.apply_(model)
    assert mask.kept == 6
    assert Mask.from_zeros(model) == mask
