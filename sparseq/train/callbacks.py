"""Callbacks of the training loop: validation, the best weights, logs, progress.

The loop calls all callbacks, in their order, at five points. To act on them (a pruning recipe, a
schedule), derive from Callback; the loop needs no change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from sparseq.data import Split
from sparseq.errors import require
from sparseq.train.evaluation import LossFn, evaluate
from sparseq.train.logs import RowLog

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass
class TrainState:
    """The state of training; callbacks read it, and may set `stop` or add to `metrics`.

    Attributes:
        model, optimizer: the trained model and its optimizer.
        epochs: epoch number at which training ends.
        steps_per_epoch: batches in one epoch.
        epoch: completed epochs, including those before a resumption.
        step: completed optimizer steps, including those before a resumption.
        first_loss: () the loss of the first step of this call; None before it.
        metrics: of the latest epoch: "loss" (mean training loss), "seconds" (spent in training
            steps), and the metrics added by callbacks.
        stop: set to True to end training after the current step (on_step) or epoch.
    """

    model: nn.Module
    optimizer: Optimizer
    epochs: int
    steps_per_epoch: int
    epoch: int = 0
    step: int = 0
    first_loss: Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    stop: bool = False


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state_dict that shares no memory with the model."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


class Callback:
    """Does nothing; derived classes override some of the five methods."""

    def on_train_start(self, state: TrainState) -> None:
        """Before the first epoch."""

    def on_epoch_start(self, state: TrainState) -> None:
        """Before the first step of an epoch."""

    def on_step(self, state: TrainState) -> None:
        """After an optimizer step; state.step includes it."""

    def on_epoch_end(self, state: TrainState) -> None:
        """After the last step of an epoch; state.epoch and state.metrics include it."""

    def on_train_end(self, state: TrainState) -> None:
        """After the last epoch, or after a stop; not after an exception."""


class Stateful(Protocol):
    """A callback whose state is part of a checkpoint."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values; the inverse of `resume`."""

    def resume(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from the values that `state` returned."""


class Validate(Callback):
    """Adds "validation_loss" and, for a classifier, "validation_accuracy" to the metrics."""

    def __init__(
        self, split: Split, batch_size: int = 1000, loss_fn: LossFn = F.cross_entropy
    ) -> None:
        self.split, self.batch_size, self.loss_fn = split, batch_size, loss_fn

    def on_epoch_end(self, state: TrainState) -> None:
        """Evaluate the current weights."""
        result = evaluate(state.model, self.split, self.batch_size, self.loss_fn)
        state.metrics["validation_loss"] = result.loss
        if not math.isnan(result.accuracy):
            state.metrics["validation_accuracy"] = result.accuracy


class EarlyBest(Validate):
    """Validates every epoch and keeps a copy of the weights with the highest accuracy so far.

    For models that are not classifiers, the weights with the lowest loss. Ties are resolved in
    favor of the earliest epoch.

    Attributes:
        accuracy: highest validation accuracy so far, -1 before the first epoch.
        loss: lowest validation loss so far of a model that is not a classifier, else infinite.
        epoch: number of completed epochs at the best one.
        best: a copy of its state_dict; empty before the first epoch.
    """

    def __init__(
        self, split: Split, batch_size: int = 1000, loss_fn: LossFn = F.cross_entropy
    ) -> None:
        super().__init__(split, batch_size, loss_fn)
        self.accuracy, self.loss, self.epoch = -1.0, math.inf, 0
        self.best: dict[str, Tensor] = {}

    def on_epoch_end(self, state: TrainState) -> None:
        """Evaluate, and copy the weights if they are the best so far."""
        super().on_epoch_end(state)
        if self._is_best(state.metrics):
            self.epoch = state.epoch
            self.best = copy_state(state.model)

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        loss, previous = metrics["validation_loss"], (self.accuracy, self.loss)
        if "validation_accuracy" in metrics:
            self.accuracy = max(metrics["validation_accuracy"], self.accuracy)
        elif loss < self.loss:
            self.loss = loss
        return previous != (self.accuracy, self.loss)

    def restore(self, model: nn.Module) -> None:
        """Load the best weights into the model; ValueError before the first epoch."""
        require(bool(self.best), "EarlyBest.restore", "best", "needs a completed epoch", "none")
        model.load_state_dict(self.best)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values for a checkpoint; the inverse of `resume`."""
        loss = {"loss": self.loss} if math.isfinite(self.loss) else {}
        return dict(self.best), {"accuracy": self.accuracy, **loss, "epoch": self.epoch}

    def resume(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from the values that `state` returned."""
        self.best = dict(tensors)
        self.accuracy, self.epoch = float(meta["accuracy"]), int(meta["epoch"])
        self.loss = float(meta.get("loss", math.inf))


class LogRows(Callback):
    """Appends a row {**extra, epoch, step, **metrics} to a log after every epoch.

    When training starts or is resumed, rows with the same `extra` of later epochs are dropped, so
    that the log of a resumed run has each epoch once.
    """

    def __init__(self, log: RowLog, **extra: Any) -> None:
        self.log, self.extra = log, extra

    def on_train_start(self, state: TrainState) -> None:
        """Drop the rows that will be written again."""
        self.log.drop(
            lambda row: (
                row.get("epoch", 0) > state.epoch
                and all(row.get(key) == value for key, value in self.extra.items())
            )
        )

    def on_epoch_end(self, state: TrainState) -> None:
        """Append the epoch's row."""
        self.log.append({**self.extra, "epoch": state.epoch, "step": state.step, **state.metrics})


class ShowProgress(Callback):
    """Advances a task of a rich progress display, about twenty times per epoch."""

    def __init__(self, progress: Progress, description: str = "training") -> None:
        self.progress, self.description = progress, description
        self.task: TaskID | None = None

    def on_train_start(self, state: TrainState) -> None:
        """Add the task, with the steps completed before."""
        self.task = self.progress.add_task(
            self.description, total=state.epochs * state.steps_per_epoch, completed=state.step
        )

    def on_step(self, state: TrainState) -> None:
        """Show the completed steps."""
        if state.step % max(1, state.steps_per_epoch // 20) == 0:
            self._show(state)

    def on_epoch_end(self, state: TrainState) -> None:
        """Show the completed steps."""
        self._show(state)

    def on_train_end(self, state: TrainState) -> None:
        """Remove the task."""
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.task = None

    def _show(self, state: TrainState) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=state.step)
