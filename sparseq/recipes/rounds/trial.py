"""One trial: a network trained, pruned and trained again, round by round; resumable.

After every round the best network of that round is saved as a compressed file, then the trial as a
checkpoint, which is authoritative; within a round the training has a checkpoint of its own. A run
can be killed at any time and resumes after the last complete epoch; as all random numbers are
functions of (seed, trial, round, epoch), its results are those of an uninterrupted run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparseq.data import DataBundle
from sparseq.errors import argument_error
from sparseq.files.model_file import load, save
from sparseq.pruning import Mask, prune
from sparseq.recipes.compressing import compressed, dense_reasons
from sparseq.recipes.folder import RunFolder, resuming
from sparseq.recipes.progress import Reporter
from sparseq.recipes.rounds.plan import RoundsPlan
from sparseq.recipes.stage import Stage, Trained
from sparseq.seeds import derive_seed
from sparseq.train import (
    Callback,
    RowLog,
    TrainState,
    copy_state,
    evaluate,
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

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors and JSON values for a checkpoint; the inverse of `resume`."""
        return self.weights, {}

    def resume(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """Continue from the values that `state` returned."""
        self.weights = dict(tensors)


class Trial:
    """One seed of one network; reads the complete rounds of an earlier process from the folder.

    Attributes:
        name: "<algebra>/trial-<number>", which is its folder too.
        rows: results of the complete rounds, in order.
        dense: for each of them, path -> reason, of the pruned layers that are dense in its file.
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
        self.dense: list[dict[str, str]] = []
        self.rewound: Tensors = {}
        self.final: Tensors = {}
        self.mask: Mask | None = None
        self._resume()

    @property
    def finished(self) -> bool:
        """All rounds are complete, or the last two are below the accuracy at which to stop."""
        below = [row["validation_accuracy"] < self.config.stop_accuracy for row in self.rows[-2:]]
        return len(self.rows) == len(self.densities) or below == [True, True]

    @property
    def label(self) -> str:
        """The trial in progress reports: "real 1/3"."""
        return f"{self.algebra} {self.number + 1}/{self.config.trials}"

    def position(self) -> str:
        """Where a resumed trial stands, in words; empty if a training says it more exactly."""
        number = len(self.rows)
        if self._training(number).exists():
            return ""
        return f"after round {number - 1} of {self.label}" if number else f"with {self.label}"

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
        trained = self._train(model, mask, report)
        self.final, self.mask = copy_state(model), mask
        trained.best.restore(model)
        policy, batch = self.config.policy, self.config.measure_batch
        small = compressed(model, mask, policy, self.data, batch)
        save(small, self.file(number), overwrite=True)
        self.dense = [*self.dense[:number], dense_reasons(small)]
        training = {
            "loss": trained.watch.last,
            "best_epoch": trained.best.epoch - self.config.first_epoch(number),
            "seconds": time.perf_counter() - started,
            **trained.remarks,
        }
        self.rows.append(self._row(model, mask, number, training))
        self._commit()
        report.keeps(f"after round {number} of {self.label}")

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

    def _train(self, model: nn.Module, mask: Mask, report: Reporter) -> Trained:
        """Train under the mask."""
        config, number = self.config, len(self.rows)
        step = config.rewind_step(self.data.train.steps(config.training.batch_size))
        rewind_point = CopyAtStep(step)
        stage = Stage(
            name=f"{self.label}, round {number}, density {100 * mask.density:.3g} %",
            checkpoint=self._training(number),
            epochs=config.training.epochs,
            seed=self._order(),
            first_epoch=config.first_epoch(number),
            mask=mask if number else None,  # the first one drops nothing
            quiet=any("diverged" in row for row in self.log.rows),
        )
        parts = {} if number else {"rewind": rewind_point}
        trained = stage.run(config, model, self.data, report, parts=parts)
        loss = trained.watch.last
        if not math.isfinite(loss):
            raise argument_error(
                config.recipe,
                "lr",
                f"must be lower (the loss was {loss} in {self.name}, round {number})",
                config.training.lr,
            )
        self.rewound = self.rewound or rewind_point.weights
        return trained

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
        save_checkpoint(self._checkpoint(), tensors, {"rows": self.rows, "dense": self.dense})
        self.log.append(self.rows[-1])
        self._training(len(self.rows) - 1).unlink(missing_ok=True)

    def network(self, number: int) -> nn.Module:
        """The compressed network of a complete round; ValueError if its file is missing."""
        with self._resuming():
            return load(self.file(number), self.new_model())

    def _resume(self) -> None:
        if self._checkpoint().exists():
            with self._resuming():
                tensors, meta = load_checkpoint(self._checkpoint())
                self.rows, self.dense = meta["rows"], meta["dense"]
                self.rewound, self.final = (
                    unprefixed("rewound/", tensors),
                    unprefixed("final/", tensors),
                )
                self.mask = Mask(unprefixed("mask/", tensors)).to(self.config.device)
                for row in self.rows:
                    self.file(row["round"]).stat()
                    self._training(row["round"]).unlink(missing_ok=True)
        self._reconcile()

    def _resuming(self) -> AbstractContextManager[None]:
        return resuming(self._checkpoint().parent, "this trial starts again")

    def _training(self, number: int) -> Path:
        """Checkpoint of the training of a round that is not complete."""
        return self.folder / f"{self.name}/round-{number:02}-training.safetensors"

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
