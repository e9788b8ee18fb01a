"""One trial: a network trained, pruned and trained again, round by round; resumable.

After every round the best network of that round is saved as a compressed file, then the trial as a
checkpoint, which is authoritative. A run can be killed at any time and resumes after the last
complete round; as all random numbers are functions of (seed, trial, round, epoch), its results are
those of an uninterrupted run.
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

from sparseq.data import DataBundle
from sparseq.errors import argument_error
from sparseq.files.model_file import load, save
from sparseq.pruning import Mask, prune
from sparseq.recipes.compressing import compressed
from sparseq.recipes.folder import RunFolder, resuming
from sparseq.recipes.progress import AdvanceReporter, Reporter
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


class CopyAtStep(Callback):
    """Copies the weights after `step` optimizer steps."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.weights: Tensors = {}

    def on_train_start(self, state: TrainState) -> None:
        """Copy before the first step if `step` is 0."""
        self.on_step(state)

    def on_step(self, state: TrainState) -> None:
        """Copy after step `step`."""
        if state.step == self.step:
            self.weights = copy_state(state.model)


class Trial:
    """One seed of one network; reads the complete rounds of an earlier process from the folder.

    Attributes:
        name: "<algebra>/trial-<number>", which is its folder too.
        rows: results of the complete rounds, in order.
        rewound: weights at the rewind step of the first training.
        final: weights at the end of the last complete round.
        mask: of the last complete round; None before the first.
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
        self.name = f"{algebra}/trial-{number}"
        self.densities = config.densities()
        self.rows: list[Row] = []
        self.rewound: Tensors = {}
        self.final: Tensors = {}
        self.mask: Mask | None = None
        self._resume()

    @property
    def finished(self) -> bool:
        """All rounds are complete, or the last two are below the accuracy at which to stop."""
        below = [row["validation_accuracy"] < self.config.stop_accuracy for row in self.rows[-2:]]
        return len(self.rows) == len(self.densities) or below == [True, True]

    def file(self, number: int) -> Path:
        """Path of the compressed network of a round."""
        return self.folder / f"{self.name}/round-{number:02}.sparseq"

    def run(self, report: Reporter) -> None:
        """Run the remaining rounds."""
        while not self.finished:
            self._round(len(self.rows), report)
        skipped = len(self.densities) - len(self.rows)
        report.advance(skipped * self.config.training.epochs, self.name)

    def new_model(self, number: int = 0) -> nn.Module:
        """The newly initialized network of a round, on the run's device."""
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
        policy, batch = self.config.policy, self.config.measure_batch
        small = compressed(model, mask, policy, self.data, batch)
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
        """The mask of a round, from the weights at the end of the previous round."""
        if self.mask is None:
            return Mask.ones(model, self.config.exclude)
        initial = copy_state(model)
        model.load_state_dict(self.final)
        mask = self._select(model, self.mask, number)
        model.load_state_dict(initial)
        return mask

    def _select(self, model: nn.Module, within: Mask, number: int) -> Mask:
        config, density = self.config, self.densities[number]
        prune_within = partial(
            prune,
            model,
            density=density,
            exclude=config.exclude,
            within=within,
            granularity=config.granularity,
            seed=derive_seed("mask", config.seed, self.number, number),
        )
        batches = self.data.train.batches(config.training.batch_size, seed=self._order())
        scored = prune_within(config.criterion, scope=config.scope, batches=batches)
        if config.mask == "scored":
            return scored
        return prune_within("random", scope=scored.layer_densities())

    def _rewind(self, model: nn.Module, number: int) -> None:
        state = self.config.start(self.rewound, self.final) if number else None
        if state is not None:
            model.load_state_dict(state)

    def _train(self, model: nn.Module, mask: Mask, report: Reporter) -> tuple[float, EarlyBest]:
        """Train under the mask; returns the loss of the last epoch and the best weights."""
        config, number = self.config, len(self.rows)
        epochs, batch_size = config.training.epochs, config.training.batch_size
        best = EarlyBest(self.data.validation)
        rewind_point = CopyAtStep(config.rewind_step(self.data.train.steps(batch_size)))
        optimizer, first = config.new_optimizer(model), config.first_epoch(number)
        rate = config.change_rate(first)
        progress = AdvanceReporter(
            report,
            f"{self.algebra} {self.number + 1}/{config.trials}, round {number},"
            f" density {100 * mask.density:.3g} %",
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
                callbacks=[rate, progress, best, *([] if number else [rewind_point])],
            )
        loss = state.metrics["loss"]
        if not math.isfinite(loss):
            raise argument_error(
                config.recipe,
                "lr",
                f"must be lower (the loss was {loss} in {self.name}, round {number})",
                config.training.lr,
            )
        self.rewound = self.rewound or rewind_point.weights
        best.epoch -= first
        return loss, best

    def _order(self) -> int:
        return derive_seed("order", self.config.seed, self.number)

    def _row(self, model: nn.Module, mask: Mask, number: int, training: Mapping[str, Any]) -> Row:
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
            **training,
        }

    def _commit(self) -> None:
        assert self.mask is not None
        groups = {"rewound": self.rewound, "final": self.final, "mask": self.mask}
        tensors = {
            f"{group}/{name}": tensor
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        save_checkpoint(self._checkpoint(), tensors, {"rows": self.rows})
        self.log.append(self.rows[-1])

    def network(self, number: int) -> nn.Module:
        """The compressed network of a complete round; ValueError if its file is missing."""
        with self._resuming():
            return load(self.file(number), self.new_model())

    def _resume(self) -> None:
        if self._checkpoint().exists():
            with self._resuming():
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

    def _resuming(self) -> AbstractContextManager[None]:
        return resuming(self._checkpoint().parent, "this trial starts again")

    def _checkpoint(self) -> Path:
        return self.folder / f"{self.name}/checkpoint.safetensors"

    def _reconcile(self) -> None:
        """Make the log consistent with the checkpoint: a crash may have separated the two."""

        def of_this_trial(row: Row) -> bool:
            return (row.get("algebra"), row.get("trial")) == (self.algebra, self.number)

        logged = [row for row in self.log.rows if of_this_trial(row)]
        if logged != self.rows:
            self.log.drop(of_this_trial)
            for row in self.rows:
                self.log.append(row)
