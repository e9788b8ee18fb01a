"""Learning rate schedules: functions of the progress of training alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sparseq.errors import check_fraction, require
from sparseq.registry import Registry
from sparseq.train.callbacks import Callback, TrainState


@dataclass(frozen=True)
class Progress:
    """The progress of training, and the parameters of the step schedule.

    Attributes:
        epoch: completed epochs since the start of the schedule.
        epochs: epochs of the complete schedule.
        every: epochs between two steps, at least 1.
        factor: of the learning rate at each step, in (0, 1].
    """

    epoch: int
    epochs: int
    every: int = 30
    factor: float = 0.1


# progress -> factor of the initial learning rate
Rate = Callable[[Progress], float]

RATES: Registry[Rate] = Registry("learning rate schedule")


@RATES.register("constant")
def constant_rate(progress: Progress) -> float:
    """1."""
    return 1.0


@RATES.register("cosine")
def cosine_rate(progress: Progress) -> float:
    """(1 + cos(pi epoch / epochs)) / 2, from 1 towards 0 (Loshchilov & Hutter 2017, eq. 5)."""
    return (1 + math.cos(math.pi * progress.epoch / progress.epochs)) / 2


@RATES.register("step")
def step_rate(progress: Progress) -> float:
    """factor ** floor(epoch / every)."""
    return progress.factor ** (progress.epoch // progress.every)


class ChangeRate(Callback):
    """Sets the learning rate at the start of every epoch.

    The rate depends on the epoch alone; the initial rate is stored in the optimizer's parameter
    groups ("initial_lr") and therefore in checkpoints, so that a resumed run has the same rates as
    an uninterrupted one.

    Args:
        rate: a name of RATES.
        first_epoch: epoch at which the schedule starts; it ends at the `epochs` of `fit`.
        every, factor: of the schedule "step", see `Progress`.

    Raises:
        ValueError: an unknown name, a number out of range, or a first_epoch after the epoch at
            which training starts.
    """

    def __init__(
        self, rate: str = "cosine", first_epoch: int = 0, every: int = 30, factor: float = 0.1
    ) -> None:
        self.rate, self.first_epoch = RATES.get(rate), first_epoch
        require(every >= 1, "ChangeRate", "every", "must be at least 1", every)
        check_fraction("ChangeRate", "factor", factor)
        self.every, self.factor = every, factor

    def on_train_start(self, state: TrainState) -> None:
        """Store the initial rates, unless a checkpoint has them."""
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
        done, epochs = state.epoch - self.first_epoch, state.epochs - self.first_epoch
        factor = self.rate(Progress(done, epochs, self.every, self.factor))
        for group in state.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
