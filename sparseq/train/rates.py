"""Learning rates that change from epoch to epoch, each a function of the progress alone."""

from __future__ import annotations

import math
from collections.abc import Callable

from sparseq.errors import require
from sparseq.registry import Registry
from sparseq.train.callbacks import Callback, TrainState

# progress, 0 in the first epoch and below 1 in the last -> factor of the initial learning rate
Rate = Callable[[float], float]

RATES: Registry[Rate] = Registry("learning rate schedule")


@RATES.register("constant")
def constant_rate(progress: float) -> float:
    """1 throughout."""
    return 1.0


@RATES.register("cosine")
def cosine_rate(progress: float) -> float:
    """(1 + cos(pi progress)) / 2, from 1 towards 0 (Loshchilov & Hutter 2017, eq. 5)."""
    return (1 + math.cos(math.pi * progress)) / 2


class ChangeRate(Callback):
    """Sets the learning rate at the start of every epoch.

    The rate depends on the epoch's number alone; the initial one is noted in the optimizer's
    groups ("initial_lr") and so lies in checkpoints. A resumed run has the rates of a whole one.

    Args:
        rate: a name of RATES.
        first_epoch: where progress starts; it ends at the `epochs` of `fit`.

    Raises:
        ValueError: an unknown name, or first_epoch after the epoch where training starts.
    """

    def __init__(self, rate: str = "cosine", first_epoch: int = 0) -> None:
        self.factor, self.first_epoch = RATES.get(rate), first_epoch

    def on_train_start(self, state: TrainState) -> None:
        """Note the initial rates, unless an earlier part of the run did."""
        require(
            0 <= self.first_epoch <= state.epoch,
            "ChangeRate",
            "first_epoch",
            f"must lie in 0..{state.epoch}",
            self.first_epoch,
        )
        for group in state.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def on_epoch_start(self, state: TrainState) -> None:
        """Set this epoch's rates."""
        progress = (state.epoch - self.first_epoch) / (state.epochs - self.first_epoch)
        for group in state.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(progress)
