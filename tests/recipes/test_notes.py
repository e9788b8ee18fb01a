"""Remarks below the tables of rounds."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from sparseq.compression.sparsify import compress
from sparseq.recipes.rounds.notes import LOGGER, dense_reasons, notes_on, remark_on


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO, logging.WARNING])
def test_reasons_are_collected_and_logged_as_before(caplog, level):
    before = LOGGER.level
    caplog.set_level(level, "sparseq")
    model = nn.Sequential(nn.Linear(4, 4))
    for _ in range(2):
        caplog.clear()
        with dense_reasons() as reasons:
            compress(model, {"0.weight": torch.rand(4, 4) < 0.9})
            LOGGER.warning("something else")
        (reason,) = reasons
        assert reason.startswith("0 (Linear) stays dense, ")
        logged = [record.getMessage() for record in caplog.records]
        assert logged == ["something else"] or level == logging.INFO
        assert ("compress: " + reason in logged) == (level == logging.INFO)
    LOGGER.setLevel(before)


def test_only_a_pruned_network_without_sparse_layers_is_remarked_on():
    dense, keep = nn.Sequential(nn.Linear(4, 4)), torch.rand(4, 4) < 0.5
    sparse = compress(dense, {"0.weight": keep}, "sparse")
    assert remark_on(sparse, 0.5, ["a"]) == remark_on(dense, 1.0, ["a"]) == {}
    assert remark_on(dense, 0.5, ["a", "b"]) == {"dense": "a; b"}
    assert remark_on(dense, 0.5, list("abcde")) == {"dense": "a; b; c; 2 more"}


def test_rounds_are_named_together():
    def row(number, **remarks):
        return {"round": number, **remarks}

    assert notes_on([row(0), row(1)]) == []
    assert notes_on([row(0), row(1, dense="x")]) == ["dense in round 1: x (in round 1)"]
    rows = [row(0), row(1, dense="x"), row(2, dense="y"), row(3, dense="z")]
    assert notes_on(rows) == ["dense in rounds 1 to 3: z (in round 3)"]
    rows[2] = row(2, diverged="loss 3e+30")
    expected = ["dense in rounds 1, 3: z (in round 3)", "diverged in round 2: loss 3e+30"]
    assert notes_on(rows) == expected
