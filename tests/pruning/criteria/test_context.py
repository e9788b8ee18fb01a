"""What criteria are given."""

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


def test_data_must_be_there_for_a_criterion_that_needs_it():
    with pytest.raises(ValueError, match="snip: batches must be given"):
        context().data("snip")
    batches = [(torch.randn(2, 3), torch.tensor([0, 1]))]
    assert context(batches=batches).data("snip") is batches


def test_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        context().model = None
