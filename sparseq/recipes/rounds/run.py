"""Recipes that prune in rounds: their fields, and the run over algebras and trials."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparseq.data import DataBundle
from sparseq.models import ALGEBRAS
from sparseq.models.user_file import accepted
from sparseq.ops._backend import activate
from sparseq.pruning import CRITERIA, SCHEDULES
from sparseq.recipes.experiment import Experiment
from sparseq.recipes.folder import RunFolder
from sparseq.recipes.progress import Reporter, Silent
from sparseq.recipes.results import RESULTS, Results
from sparseq.recipes.rounds.finish import finish
from sparseq.recipes.rounds.trial import Trial
from sparseq.train import RowLog


@dataclass(frozen=True, kw_only=True)
class PruningRounds(Experiment):
    """Train, then `rounds` times: prune `rate` of what is left, and train again."""

    algebras: tuple[Literal["real", "quaternion"], ...] = ("real", "quaternion")
    """Networks to compare; the first is the 100 % of the figure."""
    trials: int = 3
    """Seeds per network; the table shows mean and standard deviation."""
    rounds: int = 18
    """Rounds of pruning after the first training."""
    rate: float = 0.2
    """Fraction of the remaining weights that a round removes."""
    schedule: str = "geometric"
    """geometric (rounds of `rate`), or one_shot: as much in a single round."""
    criterion: str = "magnitude"
    """Score by which weights are kept."""
    scope: Literal["global", "layerwise"] = "global"
    """One threshold for the network, or one density for each layer."""
    granularity: Literal["component", "quaternion"] = "component"
    """Prune quaternion weights component by component, or whole."""
    exclude: tuple[str, ...] = ()
    """Parameters never pruned (names or patterns)."""
    mask: Literal["scored", "random"] = "scored"
    """Control: 'random' keeps each layer's density but draws the positions."""
    stop_accuracy: float = 0.0
    """End a trial after two rounds in a row below this validation accuracy (0..1)."""
    measure_batch: int = 256
    """Examples per forward pass when latency is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("trials", "measure_batch"):
            self.check(getattr(self, name) >= 1, name, "must be at least 1")
        self.check(self.rounds >= 0, "rounds", "must be 0 or more")
        self.check(0 < self.rate < 1, "rate", "must lie between 0 and 1")
        self.check(0 <= self.stop_accuracy <= 1, "stop_accuracy", "must lie in 0..1")
        distinct = 0 < len(self.algebras) == len(set(self.algebras))
        self.check(
            distinct and set(self.algebras) <= set(ALGEBRAS),
            "algebras",
            f"must be different ones of: {', '.join(ALGEBRAS)}",
        )
        CRITERIA.get(self.criterion)
        SCHEDULES.get(self.schedule)

    def densities(self) -> list[float]:
        """Fraction of the prunable weights kept in rounds 0, 1, ...

        A schedule takes those of `rounds`, `rate` and the `density` they come to that it names.
        """
        if not self.rounds:
            return [1.0]
        schedule, density = SCHEDULES.get(self.schedule), (1 - self.rate) ** self.rounds
        given = {"rounds": self.rounds, "rate": self.rate, "density": density}
        return [1.0, *schedule(**accepted(schedule, given))]

    def rewind_step(self, steps_per_epoch: int) -> int:
        """Step of the first training whose weights are kept for rewinding."""
        return 0

    def first_epoch(self, number: int) -> int:
        """Epoch of the batch order that round `number` starts with."""
        return 0

    def init_parts(self, number: int) -> tuple[int | str, ...]:
        """What the initialization of round `number` is derived from, beside seed and trial."""
        return ()

    def start(
        self, rewound: Mapping[str, Tensor], final: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor] | None:
        """Weights a round after the first starts from; None: a fresh initialization.

        Args:
            rewound: weights at the rewind step of the first training.
            final: weights at the end of the round before.
        """
        raise NotImplementedError

    def run(self, reporter: Reporter | None = None) -> Results:
        """Run, or go on with what the folder holds; the results of a finished run are read.

        Raises:
            FileExistsError: the folder belongs to another run.
            FileNotFoundError: the data set is missing.
        """
        report = reporter or Silent()
        with self.processor(), RunFolder(self.folder(), self.identity()) as folder:
            if (folder.path / RESULTS).exists():
                return Results.read(folder.path)
            trials = self._open(self.load_data(), folder)
            done = sum(len(trial.rows) for trial in trials) * self.training.epochs
            report.begin(len(trials) * len(self.densities()) * self.training.epochs, done)
            threading.Thread(target=_build_kernels, args=(self.device,), daemon=True).start()
            for trial in trials:
                trial.run(report)
            report.note("measuring")
            return finish(self, folder, trials)

    def _open(self, data: DataBundle, folder: RunFolder) -> list[Trial]:
        """All trials, each as far as the folder has it; a model that cannot be built fails now."""
        for algebra in self.algebras:
            self.new_model(data, algebra, 0)
        log = RowLog(folder.path)
        return [
            Trial(self, data, folder, log, algebra, number)
            for algebra in self.algebras
            for number in range(self.trials)
        ]


def _build_kernels(device: str) -> None:
    """Have the kernels compiled while the first networks, which need none, train."""
    # whatever fails here fails again, in the open, where a kernel is needed
    with contextlib.suppress(Exception):
        activate(torch.device(device).type)
