"""Training that diverges is said once, and remembered over an interruption."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from sparseq.models import HParams
from sparseq.train import TrainState, WatchLoss, fit, make_optimizer


def epochs(watch, losses, first=2.3):
    """The losses of consecutive epochs, as `fit` reports them."""
    state = TrainState(nn.Identity(), None, 9, 1, first_loss=torch.tensor(first))
    for epoch, loss in enumerate(losses, 1):
        state.epoch, state.metrics = epoch, {"loss": loss}
        watch.on_epoch_end(state)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 3e30, 230.1, -1e9])
def test_a_diverging_loss_warns_once(loss):
    watch = WatchLoss("lower it")
    with pytest.warns(UserWarning, match="training diverges") as caught:
        epochs(watch, [2.0, loss, loss])
    assert len(caught) == 1
    text = f"loss {loss:.3g} in epoch 2, 2.3 in the first step"
    assert str(caught[0].message) == f"training diverges ({text}): lower it"
    assert watch.diverged == text


@pytest.mark.parametrize(
    ("losses", "first"), [([2.0, 229.0, 0.1], 2.3), ([99.0], 1e-6), ([1e6], 1e5), ([-50.0], 0.5)]
)
def test_a_loss_that_only_rises_is_no_divergence(losses, first):
    watch = WatchLoss()
    epochs(watch, losses, first)
    assert watch.diverged == ""


def test_a_quiet_one_only_remembers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch = WatchLoss(quiet=True)
        epochs(watch, [math.nan])
    assert "loss nan in epoch 1" in watch.diverged


def test_the_first_loss_is_that_of_the_untrained_network(split, make_model):
    model = make_model(dropout=0.0)
    x, y = next(iter(split.batches(40, seed=5, epoch=0)))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(x), y)
    watch = WatchLoss()
    optimizer = make_optimizer(model, HParams(lr=0.1))
    settings = {"epochs": 2, "batch_size": 40, "seed": 5, "callbacks": [watch]}
    state = fit(model, optimizer, split, **settings)
    assert torch.equal(state.first_loss, expected)
    assert watch.first == float(expected)


def test_the_first_loss_and_a_divergence_survive_a_checkpoint():
    watch, again = WatchLoss(), WatchLoss()
    epochs(watch, [1.0], first=1e5)
    again.resume(*watch.state())
    epochs(again, [9e6], first=9e6)  # the first step after an interruption
    assert again.diverged == ""
    with pytest.warns(UserWarning, match="training diverges"):
        epochs(again, [math.nan])
    last = WatchLoss()
    last.resume(*again.state())
    epochs(last, [math.nan])
    assert last.diverged == again.diverged
