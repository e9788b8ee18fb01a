"""Magnitude scores."""

from __future__ import annotations

import torch
from torch import nn

from sparseq.pruning import CRITERIA, ScoreContext
from sparseq.pruning.prunable import prunable_parameters


def test_is_the_absolute_value_of_the_requested_weights():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 4))
    scores = CRITERIA.get("magnitude")(ScoreContext(model, prunable_parameters(model, "1")))
    assert list(scores) == ["0.weight"]
    assert torch.equal(scores["0.weight"], model[0].weight.detach().abs())
    assert not scores["0.weight"].requires_grad
