"""The base class of all recipes: the fields of a training run, its identity, its folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from sparseq.data import DataBundle, find_dataset, load_data
from sparseq.errors import argument_error, require
from sparseq.models import HParams, build, classifies, loss_of, std_hparams
from sparseq.registry import Registry
from sparseq.train import OPTIMIZERS, RATES, ChangeRate, LossFn, make_optimizer, usual_rate

RECIPES: Registry[type[Experiment]] = Registry("recipe")
TRAINING = [field.name for field in fields(HParams)]
# data sets so small that the defaults of HParams would need too many epochs
SMALL_DATA: dict[str, dict[str, Any]] = {"digits": {"epochs": 20, "lr": 4e-3}}
# fields that do not affect the results
LOCATION = ("out", "data_dir", "download")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run: each field is a flag, part of the log and part of the run's hash."""

    recipe: ClassVar[str] = "experiment"
    classifiers_only: ClassVar[bool] = True  # True if decisions are based on accuracy

    model: str = "lenet_300_100"
    """A registered model, or your own function: path/to/file.py:function."""
    graph: str = ""
    """Graph of expander layers: regular, xnet, random, ... (vgg16bn, resnet18 to resnet152)."""
    degree: int = 3
    """Edges per node of the graph."""
    data: str = "digits"
    """A registered data set."""
    epochs: int | None = None
    """Passes over the training data (None, here and below: the default of model and data)."""
    batch_size: int | None = None
    """Examples per step."""
    optimizer: str | None = None
    """adam or sgd."""
    lr: float | None = None
    """Learning rate (None: the model's, or that of another optimizer, if you choose one)."""
    lr_schedule: str | None = None
    """constant, cosine (from the full rate towards 0 in every training), or step."""
    lr_step: int | None = None
    """Epochs between the steps of lr-schedule step."""
    lr_factor: float | None = None
    """Factor of the learning rate at each step."""
    momentum: float | None = None
    """Momentum of sgd; 0 switches it off, and Nesterov's with it."""
    nesterov: bool | None = None
    """Use Nesterov momentum in sgd."""
    weight_decay: float | None = None
    """L2 penalty on all weights."""
    seed: int = 0
    """Seed of all random numbers."""
    device: str = "cpu"
    """Device: cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """CPU threads; part of the run's identity, as rounding depends on them."""
    data_dir: Path | None = None
    """Folder of the data sets (default: environment variable SPARSEQ_DATA)."""
    download: bool = False
    """Download the data set if it is missing."""
    out: Path | None = None
    """Folder of the run (default: runs/<recipe>-<data>-<hash>)."""

    def __post_init__(self) -> None:
        OPTIMIZERS.get(self.optimizer or std_hparams(self.model).optimizer)
        training = self.training
        fits = classifies(self.model) or not self.classifiers_only
        self.check(fits, "model", "must be a classifier (only sparseq train accepts others)")
        for name in ("epochs", "batch_size", "lr_step"):
            self.check(getattr(training, name) >= 1, name, "must be at least 1")
        self.check(0 < training.lr < math.inf, "lr", "must be above 0, and finite")
        self.check(0 < training.lr_factor <= 1, "lr_factor", "must lie in (0, 1]")
        for name in ("momentum", "weight_decay"):
            self.check(getattr(training, name) >= 0, name, "must be 0 or more")
        rule = "needs a momentum above 0 (such as --momentum 0.9)"
        self.check(not training.nesterov or training.momentum > 0, "nesterov", rule)
        self.check(self.threads >= 1, "threads", "must be at least 1")
        self.check(self.seed >= 0, "seed", "must be 0 or more")
        RATES.get(training.lr_schedule)
        find_dataset(self.data)

    @property
    def training(self) -> HParams:
        """The hyperparameters: those set explicitly, else those of the data set or the model.

        A learning rate is for one optimizer, and Nesterov's momentum needs a momentum: with another
        optimizer than the model's, and without momentum, these defaults do not hold.
        """
        fields = {name: getattr(self, name) for name in TRAINING}
        explicit = {name: value for name, value in fields.items() if value is not None}
        defaults = std_hparams(self.model)
        small = SMALL_DATA.get(self.data, {}) if defaults == HParams() else {}
        chosen = {**asdict(defaults), **small, **explicit}
        if chosen["optimizer"] != defaults.optimizer and "lr" not in explicit:
            chosen["lr"] = usual_rate(chosen["optimizer"])
        if chosen["momentum"] == 0 and "nesterov" not in explicit:
            chosen["nesterov"] = False
        return HParams(**chosen)

    def check(self, condition: bool, field: str, rule: str) -> None:
        """ValueError, naming recipe, field, rule and value, unless the condition is true."""
        require(condition, self.recipe, field, rule, getattr(self, field))

    def identity(self) -> dict[str, Any]:
        """Everything that determines the results, as JSON values."""
        fields = {k: v for k, v in asdict(self).items() if k not in LOCATION}
        everything = {"recipe": self.recipe, **fields, **asdict(self.training)}
        everything |= {f"{name}_sha256": digest for name, digest in self._file_digests().items()}
        values: dict[str, Any] = json.loads(json.dumps(everything, default=str))
        return values

    def _file_digests(self) -> dict[str, str]:
        """Field -> SHA-256 of the file that it names: a model's code or a saved network."""
        fields = {name: str(getattr(self, name, "") or "") for name in ("model", "file")}
        paths = {name: Path(text.rpartition(":")[0] or text) for name, text in fields.items()}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in paths.items()
            if path.is_file()
        }

    def fingerprint(self) -> str:
        """Eight hexadecimal digits of the identity's SHA-256."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def folder(self) -> Path:
        """`out`, or a folder named after the run."""
        data = self.data.replace(":", "-")
        name = f"{self.recipe}-{data}-{self.fingerprint()}"
        return Path("runs", name) if self.out is None else Path(self.out)

    def load_data(self) -> DataBundle:
        """The data set on the run's device; the validation part depends on the seed."""
        return load_data(
            self.data, data_dir=self.data_dir, seed=self.seed, download=self.download
        ).to(self.open_device())

    def open_device(self) -> torch.device:
        """The device; ValueError if it is not available."""
        try:
            return torch.empty(1, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            rule = f"is not available ({reason})"
            raise argument_error(self.recipe, "device", rule, self.device) from error

    @property
    def loss_fn(self) -> LossFn:
        """The loss with which the model is trained and evaluated."""
        return loss_of(self.model)

    def new_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The run's optimizer over all parameters of the model."""
        return make_optimizer(model, self.training)

    def change_rate(self, first_epoch: int = 0) -> ChangeRate:
        """The run's learning rate schedule, starting at an epoch."""
        hparams = self.training
        return ChangeRate(hparams.lr_schedule, first_epoch, hparams.lr_step, hparams.lr_factor)

    def new_model(self, data: DataBundle, algebra: str, seed: int) -> nn.Module:
        """The run's model for the data, freshly initialized, on the run's device."""
        shapes = (data.in_shape, data.num_classes)
        options: dict[str, Any] = {"graph": self.graph, "degree": self.degree} if self.graph else {}
        return build(self.model, algebra, *shapes, seed, **options).to(self.device)

    @contextmanager
    def torch_threads(self) -> Iterator[None]:
        """Sets torch's number of threads to the run's inside the block."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
