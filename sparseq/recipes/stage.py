"""One training of a recipe: it goes on from its last complete epoch, and is watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sparseq.data import DataBundle
from sparseq.pruning import Mask
from sparseq.recipes.experiment import Experiment
from sparseq.recipes.folder import resuming
from sparseq.recipes.progress import AdvanceReporter, Reporter
from sparseq.train import (
    Callback,
    EarlyBest,
    SaveCheckpoint,
    Stateful,
    TrainState,
    WatchLoss,
    fit,
    resume_training,
)

WRITE_EVERY = 1.0  # seconds; epochs may be shorter than it takes to write one


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A training of a recipe.

    Attributes:
        name: for progress reports, such as "real 1/3, round 2".
        checkpoint: file of the last complete epoch. It is written at most once a second, and when
            the training ends early for any reason but kill -9.
        epochs: number of epochs.
        seed: of the batch order.
        first_epoch: number of the first one in the batch order.
        mask: enforced in the training; None for none.
        quiet: do not warn if the training diverges.
    """

    name: str
    checkpoint: Path
    epochs: int
    seed: int
    first_epoch: int = 0
    mask: Mask | None = None
    quiet: bool = False

    def run(
        self,
        config: Experiment,
        model: nn.Module,
        data: DataBundle,
        report: Reporter,
        callbacks: Sequence[Callback] = (),
        parts: Mapping[str, Any] | None = None,
    ) -> Trained:
        """Train a model in place, or go on training it.

        Args:
            callbacks: called after every epoch, before it is kept.
            parts: further callbacks, whose state is kept too, by name.
        """
        optimizer, training = config.new_optimizer(model), config.training
        best = EarlyBest(data.validation, loss_fn=config.loss_fn)
        watch = WatchLoss(f"lower --lr ({training.lr:g})", self.quiet)
        stateful: dict[str, Stateful] = {"watch": watch, **(parts or {})}
        saver = SaveCheckpoint(self.checkpoint, best, every=WRITE_EVERY, parts=stateful)
        with self._enforced(model, optimizer):
            with resuming(self.checkpoint, "this training starts again"):
                start = resume_training(self.checkpoint, model, optimizer, best, stateful)
            start = max(start, self.first_epoch)
            if start > self.first_epoch:
                report.resumes(self.position(start))
                report.advance(start - self.first_epoch, self.name)
            steps = [config.change_rate(self.first_epoch), AdvanceReporter(report, self.name), best]
            try:
                state = fit(
                    model,
                    optimizer,
                    data.train,
                    epochs=self.first_epoch + self.epochs,
                    batch_size=training.batch_size,
                    seed=self.seed,
                    start_epoch=start,
                    loss_fn=config.loss_fn,
                    callbacks=[
                        *steps,
                        *(parts or {}).values(),
                        *callbacks,
                        watch,
                        saver,
                        _Keeps(self, report),
                    ],
                )
            except BaseException:
                saver.write()
                raise
        saver.write()
        return Trained(best, watch, state)

    def position(self, epoch: int) -> str:
        """Where a training stands after an epoch, in words."""
        return f"after epoch {epoch - self.first_epoch} of {self.epochs} of {self.name}"

    def _enforced(self, model: nn.Module, optimizer: Any) -> AbstractContextManager[object]:
        return nullcontext() if self.mask is None else self.mask.enforce(model, optimizer)


@dataclass(frozen=True)
class Trained:
    """The end of a stage.

    Attributes:
        best: the weights of the best epoch.
        watch: whether the training diverged.
        state: of the training.
    """

    best: EarlyBest
    watch: WatchLoss
    state: TrainState

    @property
    def remarks(self) -> dict[str, str]:
        """What the results must say about the training, by name."""
        return {"diverged": self.watch.diverged} if self.watch.diverged else {}


class _Keeps(Callback):
    """Reports from where an interrupted run will go on."""

    def __init__(self, stage: Stage, report: Reporter) -> None:
        self.stage, self.report = stage, report

    def on_epoch_end(self, state: TrainState) -> None:
        """The epoch is kept."""
        self.report.keeps(self.stage.position(state.epoch))
