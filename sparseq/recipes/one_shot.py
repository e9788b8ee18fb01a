"""One-shot pruning of one network: prune, optionally fine-tune, compress and save."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from sparseq.data import DataBundle
from sparseq.errors import argument_error
from sparseq.models import restore
from sparseq.models.user_file import is_file_reference
from sparseq.nn.convert import dense_twin, replace_modules
from sparseq.nn.sparse.patterned import PatternedLayer
from sparseq.pruning import CRITERIA, Mask, prune
from sparseq.pruning.prunable import prunable_parameters, quaternion_names
from sparseq.recipes.compressing import Policy, compressed
from sparseq.recipes.experiment import RECIPES, Experiment
from sparseq.recipes.folder import RunFolder
from sparseq.recipes.outcome import Outcome
from sparseq.recipes.progress import Reporter, Silent
from sparseq.recipes.results import RESULTS
from sparseq.recipes.stage import Stage
from sparseq.recipes.train_dense import conclude, train_dense
from sparseq.seeds import derive_seed
from sparseq.train import LogRows, RowLog, evaluate

FINETUNING = "finetuning.safetensors"


@RECIPES.register("prune")
@dataclass(frozen=True, kw_only=True)
class OneShot(Experiment):
    """Prune one network to a density and save it compressed.

    The network is read from `file`, or trained first. With `finetune` above 0, training continues
    under the mask, and the weights of the epoch with the best validation accuracy are saved.
    """

    recipe: ClassVar[str] = "prune"

    file: Path | None = None
    """A saved network to prune; `model` builds it if it has classes of your own. Without a file,
    `model` is trained first."""
    algebra: Literal["real", "quaternion"] = "real"
    """Layers of a network that is trained first."""
    density: float = 0.1
    """Fraction of the prunable weights to keep."""
    criterion: str = "magnitude"
    """Criterion that scores the weights; the largest scores are kept."""
    scope: Literal["global", "layerwise"] = "global"
    """One threshold for the network, or the same density in each layer."""
    granularity: Literal["component", "quaternion"] = "component"
    """Prune the components of quaternion weights separately or together."""
    exclude: tuple[str, ...] = ()
    """Parameters never pruned (names or patterns)."""
    finetune: int = 5
    """Epochs of fine-tuning after pruning."""
    policy: Policy = "measured"
    """measured (each layer in the form that is faster here), auto (by tables) or sparse (all)."""
    measure_batch: int = 64
    """Examples per forward pass for which the policy decides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(0 < self.density <= 1, "density", "must lie in (0, 1]")
        self.check(self.finetune >= 0, "finetune", "must be 0 or more")
        self.check(self.measure_batch >= 1, "measure_batch", "must be at least 1")
        CRITERIA.get(self.criterion)

    def run(self, reporter: Reporter | None = None) -> Outcome:
        """Run, or resume after the last complete epoch of the training or the fine-tuning.

        Raises:
            FileExistsError: the folder contains another run.
            FileNotFoundError: the data set or the file is missing.
            ValueError: the file has no network, or one that does not accept the data.
        """
        report = reporter or Silent()
        with self.torch_threads(), RunFolder(self.folder(), self.identity()) as folder:
            if (folder.path / RESULTS).exists():
                return Outcome.read(folder.path)
            data = self.load_data()
            report.begin((0 if self.file else self.training.epochs) + self.finetune)
            model, remarks = self._start(data, folder, report)
            before = evaluate(model, data.validation).accuracy
            mask = self._mask(model, data)
            mask.apply_(model)
            after = evaluate(model, data.validation).accuracy
            if self.finetune:
                remarks |= self._finetune(model, mask, data, folder, report)
            small = compressed(model, mask, self.policy, data, self.measure_batch)
            return conclude(
                small,
                data,
                folder,
                self.loss_fn,
                **remarks,
                density=mask.density,
                weights_kept=mask.kept,
                weights=mask.total,
                unpruned_validation_accuracy=before,
                pruned_validation_accuracy=after,
            )

    def _start(
        self, data: DataBundle, folder: RunFolder, report: Reporter
    ) -> tuple[nn.Module, dict[str, str]]:
        """The network to prune, read or trained, and remarks about its training."""
        if self.file:
            return self._read(data), {}
        # wrong names are an error now, not after the training
        prunable_parameters(self.new_model(data, self.algebra, 0), self.exclude)
        return train_dense(self, data, folder, report, self.algebra, stage="train")

    def _read(self, data: DataBundle) -> nn.Module:
        """The file's network with sparse layers converted to dense ones, checked on one example."""
        assert self.file is not None
        code = self.model if is_file_reference(self.model) else None
        model = replace_modules(restore(self.file, code), _dense_layer).to(self.device)
        try:
            evaluate(model, data.validation.take(torch.tensor([0])))
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0]
            rule = f"must accept the examples of {self.data} ({reason})"
            raise argument_error(self.recipe, "file", rule, self.file) from error
        return model

    def _mask(self, model: nn.Module, data: DataBundle) -> Mask:
        batches = data.train.batches(
            self.training.batch_size, seed=derive_seed("order", self.seed, 0)
        )
        return prune(
            model,
            self.criterion,
            density=self.density,
            scope=self.scope,
            exclude=self.exclude,
            granularity=self.granularity,
            batches=batches,
            loss_fn=F.cross_entropy,
            seed=derive_seed("mask", self.seed),
            within=self._nonzero(model) if self.file else None,
        )

    def _nonzero(self, model: nn.Module) -> Mask:
        """The nonzero weights of the file's network; weights pruned before stay pruned."""
        nonzero = Mask.from_zeros(model, self.exclude)
        if self.granularity == "quaternion":
            names = quaternion_names(model) & nonzero.keys()
            any_component = {n: nonzero[n].any(0).expand_as(nonzero[n]) for n in names}
            nonzero = Mask({**nonzero, **any_component})
        self.check(
            round(self.density * nonzero.total) <= max(nonzero.kept, 1),
            "density",
            f"must be at most {nonzero.density:.4g}, that of the network in the file",
        )
        return nonzero

    def _finetune(
        self, model: nn.Module, mask: Mask, data: DataBundle, folder: RunFolder, report: Reporter
    ) -> dict[str, str]:
        """Train under the mask to the best weights; returns remarks about it."""
        stage = Stage(
            name="the fine-tuning",
            checkpoint=folder / FINETUNING,
            epochs=self.finetune,
            seed=derive_seed("order", self.seed, 1),
            mask=mask,
        )
        rows = LogRows(RowLog(folder.path), stage="finetune")
        trained = stage.run(self, model, data, report, [rows])
        trained.best.restore(model)
        return trained.remarks


def _dense_layer(_: str, module: nn.Module) -> nn.Module | None:
    return dense_twin(module) if isinstance(module, PatternedLayer) else None
