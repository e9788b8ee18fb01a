"""Training of a single network, without pruning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from sparseq.data import DataBundle
from sparseq.files.model_file import save
from sparseq.recipes.experiment import RECIPES, Experiment
from sparseq.recipes.folder import RunFolder
from sparseq.recipes.outcome import MODEL_FILE, Outcome
from sparseq.recipes.progress import Reporter, Silent
from sparseq.recipes.results import RESULTS
from sparseq.recipes.stage import Stage
from sparseq.seeds import derive_seed
from sparseq.train import (
    LogRows,
    LossFn,
    RowLog,
    evaluate,
)

CHECKPOINT = "checkpoint.safetensors"


@RECIPES.register("train")
@dataclass(frozen=True, kw_only=True)
class Train(Experiment):
    """Train one network and save the weights of its best epoch.

    The best epoch has the highest validation accuracy or, for an autoencoder, the lowest loss.
    """

    recipe: ClassVar[str] = "train"
    classifiers_only: ClassVar[bool] = False

    algebra: Literal["real", "quaternion"] = "real"
    """Real or quaternion layers."""

    def run(self, reporter: Reporter | None = None) -> Outcome:
        """Run, or resume after the last complete epoch; the outcome of a complete run is read.

        Raises:
            FileExistsError: the folder contains another run.
            FileNotFoundError: the data set is missing.
        """
        report = reporter or Silent()
        with self.torch_threads(), RunFolder(self.folder(), self.identity()) as folder:
            if (folder.path / RESULTS).exists():
                return Outcome.read(folder.path)
            data = self.load_data()
            report.begin(self.training.epochs)
            model, remarks = train_dense(self, data, folder, report, self.algebra)
            return conclude(model, data, folder, self.loss_fn, **remarks)


def train_dense(
    config: Experiment,
    data: DataBundle,
    folder: RunFolder,
    report: Reporter,
    algebra: str,
    **logged: str,
) -> tuple[nn.Module, dict[str, str]]:
    """A new network with the weights of its best epoch, and remarks for the outcome.

    Logs and checkpoints every epoch; `logged` is part of every row of the log.
    """
    model = config.new_model(data, algebra, derive_seed("weights", config.seed, 0))
    stage = Stage(
        name=f"the {algebra} network",
        checkpoint=folder / CHECKPOINT,
        epochs=config.training.epochs,
        seed=derive_seed("order", config.seed, 0),
    )
    rows = LogRows(RowLog(folder.path), **logged)
    trained = stage.run(config, model, data, report, [rows])
    trained.best.restore(model)
    return model, trained.remarks


def conclude(
    model: nn.Module, data: DataBundle, folder: RunFolder, loss_fn: LossFn, **metrics: object
) -> Outcome:
    """Save the network, evaluate it on the validation and test splits, and write the outcome.

    The metric is the accuracy or, if the network is not a classifier, the loss.
    """
    save(model, folder / MODEL_FILE, overwrite=True)
    results = {
        name: evaluate(model, split, loss_fn=loss_fn)
        for name, split in (("validation", data.validation), ("test", data.test))
    }
    metric = "loss" if any(math.isnan(r.accuracy) for r in results.values()) else "accuracy"
    outcome = Outcome(
        folder.path,
        {
            **metrics,
            **{f"{name}_{metric}": getattr(r, metric) for name, r in results.items()},
            "bytes_on_disk": (folder / MODEL_FILE).stat().st_size,
        },
    )
    outcome.write(folder)
    return outcome
