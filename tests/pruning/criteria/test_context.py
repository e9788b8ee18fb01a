"""The inputs of criteria."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from sparseq.pruning import ScoreContext
from sparseq.pruning.prunable import prunable_parameters


def context(**options):
    model = nn.Linear(3, 2)
    return ScoreContext(model, prunable_parameters(model), **options)


def test_a_criterion_that_needs_data_requires_batches():
    with pytest.raises(ValueError, match="snip: batches must be given"):
        context().data("snip")
    batches = [(torch.randn(2, 3), torch.tensor([0, 1]))]
    assert context(batches=batches).data("snip") is batches


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        context().model = None
