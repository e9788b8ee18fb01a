"""The run of a recipe that prunes in rounds, over algebras and trials."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparseq.data import DataBundle
from sparseq.ops._backend import activate
from sparseq.pruning.prunable import prunable_parameters
from sparseq.recipes.folder import RunFolder
from sparseq.recipes.progress import Reporter, Silent
from sparseq.recipes.results import RESULTS, Results
from sparseq.recipes.rounds.finish import finish
from sparseq.recipes.rounds.plan import RoundsPlan
from sparseq.recipes.rounds.trial import Trial
from sparseq.train import RowLog


@dataclass(frozen=True, kw_only=True)
class PruningRounds(RoundsPlan):
    """Train, then `rounds` times: prune `rate` of the remaining weights and train again."""

    def run(self, reporter: Reporter | None = None) -> Results:
        """Run, or resume the run in the folder; the results of a complete run are read.

        Raises:
            FileExistsError: the folder contains another run.
            FileNotFoundError: the data set is missing.
        """
        report = reporter or Silent()
        with self.torch_threads(), RunFolder(self.folder(), self.identity()) as folder:
            if (folder.path / RESULTS).exists():
                return Results.read(folder.path)
            trials = self._open(self.load_data(), folder)
            done = sum(len(trial.rows) for trial in trials) * self.training.epochs
            report.begin(len(trials) * len(self.densities()) * self.training.epochs, done)
            _report_position(trials, report)
            threading.Thread(target=_build_kernels, args=(self.device,), daemon=True).start()
            for trial in trials:
                trial.run(report)
            report.note("measuring")
            return finish(self, folder, trials)

    def _open(self, data: DataBundle, folder: RunFolder) -> list[Trial]:
        """All trials, resumed from the folder; fails early for a wrong model or `exclude`."""
        for algebra in self.algebras:
            prunable_parameters(self.new_model(data, algebra, 0), self.exclude)
        log = RowLog(folder.path)
        return [
            Trial(self, data, folder, log, algebra, number)
            for algebra in self.algebras
            for number in range(self.trials)
        ]


def _report_position(trials: Sequence[Trial], report: Reporter) -> None:
    """Report from where the run goes on, if it was started before."""
    rest = [trial for trial in trials if not trial.finished]
    if any(trial.rows for trial in trials):
        position = rest[0].position() if rest else "after the last round"
        if position:
            report.resumes(position)


def _build_kernels(device: str) -> None:
    """Compile the kernels while the first networks train, which do not need them."""
    # an error here is raised again by the first use of a kernel
    with contextlib.suppress(Exception):
        activate(torch.device(device).type)
