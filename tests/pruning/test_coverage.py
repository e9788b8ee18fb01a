"""Warnings of what a mask leaves out, and of layers that it empties."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

from sparseq.pruning import prune


class Tagger(nn.Module):
    """A recurrent network, most of whose weights cannot be pruned."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 32, num_layers=2)
        self.head = nn.Linear(32, 10)


def test_weights_that_are_not_prunable_are_named_with_the_fraction_covered():
    model = Tagger()
    total = sum(p.numel() for p in model.parameters())
    message = (
        rf"prune: covers 320 of {total:,} parameters \({320 / total:.1%}\); not prunable: "
        r"embedding.weight \(Embedding\), lstm.weight_ih_l0 \(LSTM\), .*lstm.weight_hh_l1 \(LSTM\)$"
    )
    with pytest.warns(UserWarning, match=message):
        mask = prune(model, density=0.1)
    assert list(mask) == ["head.weight"]


def test_the_joint_projection_of_attention_is_named():
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3)
    message = r"in_proj_weight of 3 MultiheadAttention \(layers.0.self_attn, \.\.\.\)$"
    with pytest.warns(UserWarning, match=message):
        mask = prune(layers, density=0.5)
    assert len(mask) == 9


@pytest.mark.parametrize("kind", ["hooks", "parametrization"])
def test_computed_weights_are_named_with_the_remedy(kind):
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    if kind == "hooks":
        torch_prune.identity(model[0], "weight")
    else:
        parametrizations.orthogonal(model[0])
    with pytest.warns(UserWarning, match=r"covers 256 of .*not prunable: .*prune\.remove"):
        mask = prune(model, density=0.1)
    assert list(mask) == ["2.weight"]


def test_biases_normalizations_and_excluded_layers_are_not_named():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm((8, 8)), nn.Conv1d(8, 8, 3))
    assert list(prune(model, density=0.5, exclude="2")) == ["0.weight"]


def test_a_network_that_global_pruning_empties_is_named():
    torch.manual_seed(0)
    layers = [nn.Linear(20, 20) for _ in range(12)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers[2:]:
            layer.weight.mul_(1e-3)
    message = r"keeps no weight in 10 of 12 layers \(2.weight, .*9.weight and 2 more\).*keep_at_l"
    with pytest.warns(UserWarning, match=message):
        prune(model, density=0.05)
    prune(model, density=0.05, keep_at_least=5)
    prune(model, density=0.05, scope="layerwise")


def test_a_layer_that_is_to_be_emptied_is_not_named():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    mask = prune(model, density=0.5, scope={"0.weight": 0.0})
    assert not mask["0.weight"].any()
