"""The end of a run of pruning rounds: test accuracy, latency, table and figure.

The test split is used only here, after all decisions.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparseq._version import __version__
from sparseq.data import Split
from sparseq.ops.build.toolchain import cpu_model
from sparseq.recipes.compressing import examples
from sparseq.recipes.folder import RunFolder
from sparseq.recipes.results import FIGURE, Level, Results
from sparseq.recipes.rounds.footnotes import dense_notes, diverged_notes
from sparseq.recipes.rounds.plan import RoundsPlan
from sparseq.recipes.rounds.trial import Row, Trial
from sparseq.reports.figures import accuracy_figure, save_figure
from sparseq.timing import median_ms
from sparseq.train import evaluate

REPEATS = 31


def finish(config: RoundsPlan, folder: RunFolder, trials: Sequence[Trial]) -> Results:
    """Test and time complete trials, and write the results."""
    levels: list[Level] = []
    notes: dict[str, list[str]] = {}
    for algebra in config.algebras:
        of_algebra = [trial for trial in trials if trial.algebra == algebra]
        levels += _levels(config, of_algebra)
        longest = _longest(of_algebra)
        notes[algebra] = [*dense_notes(longest.dense), *diverged_notes(longest.rows)]
    results = Results(folder.path, config.identity(), levels, _timing(config), notes)
    title = f"{config.recipe}: {Path(config.model).name} on {config.data}"
    figure = accuracy_figure(results.curves(), title)
    save_figure(figure, folder / FIGURE, overwrite=True)
    results.write(folder)
    return results


def _longest(trials: Sequence[Trial]) -> Trial:
    """The first trial with the most rounds."""
    return max(trials, key=lambda trial: len(trial.rows))


def _levels(config: RoundsPlan, trials: Sequence[Trial]) -> list[Level]:
    """The levels of one network; times and sizes are of the first trial with the most rounds."""
    longest = _longest(trials)
    models = {trial.number: [trial.network(row["round"]) for row in trial.rows] for trial in trials}
    tests = {
        trial.number: [evaluate(model, trial.data.test).accuracy for model in models[trial.number]]
        for trial in trials
    }
    times = _latency(
        longest.new_model(),
        models[longest.number],
        longest.data.validation,
        config.measure_batch,
    )
    return [
        _level(
            row,
            [
                (trial.rows[number], tests[trial.number][number])
                for trial in trials
                if number < len(trial.rows)
            ],
            *times[number],
        )
        for number, row in enumerate(longest.rows)
    ]


def _latency(
    dense: nn.Module, sparse: Sequence[nn.Module], split: Split, batch: int
) -> list[tuple[float, float]]:
    """(dense, sparse) milliseconds per forward pass of each network, without gradients."""
    x, dense = examples(split, batch), dense.eval()
    with torch.no_grad():
        # interleaved with the dense network only: more networks would evict each other's caches
        pairs = [
            median_ms([partial(dense, x), partial(model.eval(), x)], x.device, REPEATS)
            for model in sparse
        ]
    return [(dense_ms, sparse_ms) for dense_ms, sparse_ms in pairs]


def _level(
    row: Row, reached: Sequence[tuple[Row, float]], dense_ms: float, sparse_ms: float
) -> Level:
    """One level: size and times of one trial, accuracies of all trials that reached it."""
    validation = _spread([row["validation_accuracy"] for row, _ in reached])
    test = _spread([accuracy for _, accuracy in reached])
    return Level(
        row["algebra"],
        row["round"],
        row["density"],
        row["kept"],
        row["weights"],
        len(reached),
        *validation,
        *test,
        row["bytes"],
        dense_ms,
        sparse_ms,
        dense_ms / sparse_ms,
    )


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, which is 0 for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _timing(config: RoundsPlan) -> dict[str, Any]:
    return {
        "processor": processor_name(config.device),
        "threads": config.threads,
        "batch": config.measure_batch,
        "repeats": REPEATS,
        "torch": torch.__version__,
        "sparseq": __version__,
    }


def processor_name(device: str) -> str:
    """Name of the processor on which the times are measured."""
    cuda = torch.device(device).type == "cuda"
    return torch.cuda.get_device_name(device) if cuda else cpu_model()
