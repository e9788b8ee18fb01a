"""keep_at_least: the least number of weights of each layer and each output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseq.nn.quaternion.linear import QLinear
from sparseq.pruning import prune
from sparseq.pruning.select import select


def uneven():
    """Two layers, of which a global threshold empties the second one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 8))
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    return model


def test_each_layer_keeps_its_largest_weights_within_the_same_budget():
    model = uneven()
    mask = prune(model, density=0.1, keep_at_least=7)
    assert mask.kept == 84
    magnitude = model[2].weight.detach().abs().flatten()
    assert mask["2.weight"].flatten().nonzero().flatten().tolist() == sorted(
        magnitude.topk(7).indices.tolist()
    )
    first = model[0].weight.detach().abs().flatten()
    assert first[mask["0.weight"].flatten()].min() >= first[~mask["0.weight"].flatten()].max()


def test_each_output_keeps_its_largest_weights():
    model = uneven()
    mask = prune(model, density=0.2, keep_at_least={"row": 2})
    assert mask.kept == 168
    for name, keep in mask.items():
        rows = model.get_parameter(name).detach().abs()
        assert (keep.sum(1) >= 2).all()
        assert keep.gather(1, rows.topk(2).indices).all()


def test_a_layer_or_output_with_fewer_weights_keeps_them_all():
    scores = {"a": torch.rand(2, 3), "b": torch.rand(50, 4)}
    mask = select(scores, 0.5, keep_at_least={"layer": 10, "row": 1})
    assert mask["a"].all()
    assert mask.kept == 103


def test_within_still_drops():
    scores = {"a": torch.rand(4, 5)}
    within = {"a": torch.zeros(4, 5, dtype=torch.bool)}
    within["a"][1] = True
    mask = select(scores, 0.2, within=within, keep_at_least={"row": 1})
    assert mask.kept == 4
    assert not mask["a"][~within["a"]].any()


def test_quaternions_stay_whole():
    torch.manual_seed(0)
    model = nn.Sequential(QLinear(16, 20), nn.ReLU(), QLinear(20, 8))
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    mask = prune(model, density=0.5, granularity="quaternion", keep_at_least={"row": 5})
    for keep in mask.values():
        assert torch.equal(keep, keep[:1].expand_as(keep))
        assert (keep[0].sum(1) >= 2).all()
    assert mask.kept == round(0.5 * mask.total / 4) * 4


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (60, r"keep_at_least must ask for at most the 84 weights that the density keeps.*got 120"),
        (-1, r"keep_at_least\['layer'\] must be an integer of at least 0, got -1"),
        (0.5, r"keep_at_least\['layer'\] must be an integer of at least 0, got 0.5"),
        (True, "must be an integer of at least 0, got True"),
        ({"column": 1}, "unknown key of keep_at_least 'column'; choose one of: layer, row"),
    ],
)
def test_impossible_floors_are_rejected(value, message):
    with pytest.raises(ValueError, match=message):
        prune(uneven(), density=0.1, keep_at_least=value)
