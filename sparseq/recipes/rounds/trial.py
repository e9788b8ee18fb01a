"""One trial: a network trained, pruned and trained again, round by round, restartable.

After every round the best network of that round is saved as a compressed file, and then the trial
as a checkpoint; the checkpoint is what counts. A process killed at any moment goes on from the
last finished round, and since every random number is a function of (seed, trial, round, epoch),
it ends where it would have ended anyway.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparseq.compression.sparsify import compress
from sparseq.data import DataBundle
from sparseq.errors import argument_error
from sparseq.files.model_file import load, save
from sparseq.pruning import Mask, prune
from sparseq.recipes.folder import RunFolder, damage_named
from sparseq.recipes.progress import Reporter
from sparseq.recipes.rounds.plan import RoundsPlan
from sparseq.seeds import derive_seed
from sparseq.train import (
    Callback,
    EarlyBest,
    RowLog,
    TrainState,
    copy_state,
    evaluate,
    fit,
    load_checkpoint,
    save_checkpoint,
)
from sparseq.train.checkpoint import unprefixed

Row = dict[str, Any]
Tensors = dict[str, Tensor]


class KeepStep(Callback):
    """Copies the weights once `step` optimizer steps are done."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.kept: Tensors = {}

    def on_train_start(self, state: TrainState) -> None:
        """Step 0: the weights before any step."""
        self.on_step(state)

    def on_step(self, state: TrainState) -> None:
        """Copy if this is the step."""
        if state.step == self.step:
            self.kept = copy_state(state.model)


class Advance(Callback):
    """Tells the reporter of every epoch."""

    def __init__(self, report: Reporter, note: str) -> None:
        self.report, self.note = report, note

    def on_epoch_end(self, state: TrainState) -> None:
        """One unit more."""
        self.report.advance(1, self.note)


class Trial:
    """One seed of one network; opening it reads what an earlier process has finished.

    Attributes:
        rows: one for each finished round, in order.
    """

    def __init__(
        self,
        config: RoundsPlan,
        data: DataBundle,
        folder: RunFolder,
        log: RowLog,
        algebra: str,
        number: int,
    ) -> None:
        self.config, self.data, self.folder, self.log = config, data, folder, log
        self.algebra, self.number = algebra, number
        self.place = f"{algebra}/trial-{number}"
        self.densities = config.densities()
        self.rows: list[Row] = []
        self.rewound: Tensors = {}
        self.final: Tensors = {}
        self.mask: Mask | None = None
        self._resume()

    @property
    def finished(self) -> bool:
        """All rounds are done, or the last two stayed below the accuracy to stop at."""
        low = [row["validation_accuracy"] < self.config.stop_accuracy for row in self.rows[-2:]]
        return len(self.rows) == len(self.densities) or low == [True, True]

    def file(self, number: int) -> Path:
        """The compressed network of a round."""
        return self.folder / f"{self.place}/round-{number:02}.sparseq"

    def run(self, report: Reporter) -> None:
        """Do the rounds that are not done."""
        while not self.finished:
            self._round(len(self.rows), report)
        left_out = len(self.densities) - len(self.rows)
        report.advance(left_out * self.config.training.epochs, self.place)

    def new_model(self, number: int = 0) -> nn.Module:
        """A freshly initialized network for a round, on the run's device."""
        parts = self.config.init_parts(number)
        seed = derive_seed("weights", self.config.seed, self.number, *parts)
        return self.config.new_model(self.data, self.algebra, seed)

    def _round(self, number: int, report: Reporter) -> None:
        started = time.perf_counter()
        model = self.new_model(number)
        mask = self._next_mask(model, number)
        self._rewind(model, number)
        loss, best = self._train(model, mask, report)
        self.final, self.mask = copy_state(model), mask
        best.restore(model)
        small = compress(model, mask, batch=self.config.measure_batch, in_shape=self.data.in_shape)
        save(small, self.file(number), overwrite=True)
        self.rows.append(
            self._row(
                model,
                mask,
                number,
                {"loss": loss, "best_epoch": best.epoch, "seconds": time.perf_counter() - started},
            )
        )
        self._commit()

    def _next_mask(self, model: nn.Module, number: int) -> Mask:
        """The mask of a round, from the weights at the end of the round before."""
        if self.mask is None:
            return Mask.ones(model, self.config.exclude)
        fresh = copy_state(model)
        model.load_state_dict(self.final)
        mask = self._select(model, self.mask, number)
        model.load_state_dict(fresh)
        return mask

    def _select(self, model: nn.Module, within: Mask, number: int) -> Mask:
        config, density = self.config, self.densities[number]
        cut = partial(
            prune,
            model,
            density=density,
            exclude=config.exclude,
            within=within,
            granularity=config.granularity,
            seed=derive_seed("mask", config.seed, self.number, number),
        )
        batches = self.data.train.batches(config.training.batch_size, seed=self._order())
        scored = cut(config.criterion, scope=config.scope, batches=batches)
        if config.mask == "scored":
            return scored
        return cut("random", scope=scored.layer_densities())

    def _rewind(self, model: nn.Module, number: int) -> None:
        state = self.config.start(self.rewound, self.final) if number else None
        if state is not None:
            model.load_state_dict(state)

    def _train(self, model: nn.Module, mask: Mask, report: Reporter) -> tuple[float, EarlyBest]:
        """Train under the mask; returns the last epoch's loss and the best weights."""
        config, number = self.config, len(self.rows)
        epochs, batch_size = config.training.epochs, config.training.batch_size
        best = EarlyBest(self.data.validation)
        keep = KeepStep(config.rewind_step(self.data.train.steps(batch_size)))
        optimizer, first = config.new_optimizer(model), config.first_epoch(number)
        rate = config.change_rate(first)
        tick = Advance(
            report,
            f"{self.algebra} {self.number + 1}/{config.trials}, round {number},"
            f" {100 * mask.density:.3g} % left",
        )
        # a mask that drops nothing needs no enforcement
        with mask.enforce(model, optimizer) if number else nullcontext():
            state = fit(
                model,
                optimizer,
                self.data.train,
                epochs=first + epochs,
                batch_size=batch_size,
                seed=self._order(),
                start_epoch=first,
                callbacks=[rate, tick, best, *([] if number else [keep])],
            )
        loss = state.metrics["loss"]
        if not math.isfinite(loss):
            raise argument_error(
                config.recipe,
                "lr",
                f"must be lower (the loss was {loss} in {self.place}, round {number})",
                config.training.lr,
            )
        self.rewound = self.rewound or keep.kept
        best.epoch -= first
        return loss, best

    def _order(self) -> int:
        return derive_seed("order", self.config.seed, self.number)

    def _row(self, model: nn.Module, mask: Mask, number: int, more: Mapping[str, Any]) -> Row:
        metrics = evaluate(model, self.data.validation)
        return {
            "run": self.config.fingerprint(),
            "algebra": self.algebra,
            "trial": self.number,
            "round": number,
            "density": mask.density,
            "kept": mask.kept,
            "weights": mask.total,
            "validation_accuracy": metrics.accuracy,
            "validation_loss": metrics.loss,
            "bytes": self.file(number).stat().st_size,
            **more,
        }

    def _commit(self) -> None:
        assert self.mask is not None
        groups = {"rewound": self.rewound, "final": self.final, "mask": self.mask}
        tensors = {
            f"{group}/{name}": tensor
            for group, named in groups.items()
            for name, tensor in named.items()
        }
        save_checkpoint(self._checkpoint(), tensors, {"rows": self.rows})
        self.log.append(self.rows[-1])

    def network(self, number: int) -> nn.Module:
        """The compressed network of a finished round; ValueError with the remedy if it is gone."""
        with self._remedy():
            return load(self.file(number), self.new_model())

    def _resume(self) -> None:
        if self._checkpoint().exists():
            with self._remedy():
                tensors, meta = load_checkpoint(self._checkpoint())
                self.rows = meta["rows"]
                self.rewound, self.final = (
                    unprefixed("rewound/", tensors),
                    unprefixed("final/", tensors),
                )
                self.mask = Mask(unprefixed("mask/", tensors)).to(self.config.device)
                for row in self.rows:
                    self.file(row["round"]).stat()
        self._reconcile()

    def _remedy(self) -> AbstractContextManager[None]:
        return damage_named(self._checkpoint().parent, "this trial runs again from its start")

    def _checkpoint(self) -> Path:
        return self.folder / f"{self.place}/checkpoint.safetensors"

    def _reconcile(self) -> None:
        """Make the log hold exactly this trial's rows: a crash falls between the two at times."""

        def mine(row: Row) -> bool:
            return (row.get("algebra"), row.get("trial")) == (self.algebra, self.number)

        logged = [row for row in self.log.rows if mine(row)]
        if logged != self.rows:
            self.log.drop(mine)
            for row in self.rows:
                self.log.append(row)
