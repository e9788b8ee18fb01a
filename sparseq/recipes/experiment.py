"""What every recipe shares: the fields of a training run, its identity, its folder's name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from sparseq.data import DataBundle, find_dataset, load_data
from sparseq.errors import argument_error, require
from sparseq.models import HParams, build, classifies, loss_of, std_hparams
from sparseq.registry import Registry
from sparseq.train import OPTIMIZERS, RATES, ChangeRate, LossFn, make_optimizer

RECIPES: Registry[type[Experiment]] = Registry("recipe")
TRAINING = [field.name for field in fields(HParams)]
# data sets so small that training by the defaults of HParams would be slow to get anywhere
SMALL_DATA: dict[str, dict[str, Any]] = {"digits": {"epochs": 20, "lr": 4e-3}}
# where things lie changes nothing of what comes out
LOCATION = ("out", "data_dir", "download")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run: each field is a flag, a part of the log, and a part of the run's hash."""

    recipe: ClassVar[str] = "experiment"
    classes_only: ClassVar[bool] = True  # what the recipe decides, it decides by accuracy

    model: str = "lenet_300_100"
    """A registered model, or a function of yours: path/to/file.py:function."""
    graph: str = ""
    """Build the layers on such graphs: regular, xnet, random ... (vgg16bn, resnet18..152)."""
    degree: int = 3
    """Edges per node of these graphs."""
    data: str = "digits"
    """A registered data set."""
    epochs: int | None = None
    """Passes over the training data (None, here and below: usual for model and data)."""
    batch_size: int | None = None
    """Examples per step."""
    optimizer: str | None = None
    """adam or sgd."""
    lr: float | None = None
    """Learning rate."""
    lr_schedule: str | None = None
    """constant, cosine (falling towards 0 within every training), or step."""
    lr_step: int | None = None
    """Epochs between the steps of lr-schedule step."""
    lr_factor: float | None = None
    """Factor of the learning rate at each of these steps."""
    momentum: float | None = None
    """Momentum of sgd."""
    nesterov: bool | None = None
    """Nesterov's momentum in sgd."""
    weight_decay: float | None = None
    """L2 penalty on all weights."""
    seed: int = 0
    """Everything random follows from it."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1 ..."""
    threads: int = 1
    """CPU threads; part of the run, since sums depend on it."""
    data_dir: Path | None = None
    """Folder of the data sets (default: the environment's SPARSEQ_DATA)."""
    download: bool = False
    """Fetch the data set if it is missing."""
    out: Path | None = None
    """Folder of the run (default: runs/<recipe>-<data>-<hash>)."""

    def __post_init__(self) -> None:
        training = self.training
        fits = classifies(self.model) or not self.classes_only
        self.check(fits, "model", "must be a classifier (sparseq train takes others too)")
        for name in ("epochs", "batch_size", "lr_step"):
            self.check(getattr(training, name) >= 1, name, "must be at least 1")
        self.check(training.lr > 0, "lr", "must be above 0")
        self.check(0 < training.lr_factor <= 1, "lr_factor", "must lie in (0, 1]")
        for name in ("momentum", "weight_decay"):
            self.check(getattr(training, name) >= 0, name, "must be 0 or more")
        self.check(not training.nesterov or training.momentum > 0, "nesterov", "needs a momentum")
        self.check(self.threads >= 1, "threads", "must be at least 1")
        self.check(self.seed >= 0, "seed", "must be 0 or more")
        OPTIMIZERS.get(training.optimizer)
        RATES.get(training.lr_schedule)
        find_dataset(self.data)

    @property
    def training(self) -> HParams:
        """The hyperparameters: those given, else those for small data or usual for the model."""
        given = {name: getattr(self, name) for name in TRAINING}
        chosen = {name: value for name, value in given.items() if value is not None}
        usual = std_hparams(self.model)
        small = SMALL_DATA.get(self.data, {}) if usual == HParams() else {}
        return replace(usual, **{**small, **chosen})

    def check(self, condition: bool, field: str, rule: str) -> None:
        """ValueError naming the recipe, the field, the rule and the value, unless it holds."""
        require(condition, self.recipe, field, rule, getattr(self, field))

    def identity(self) -> dict[str, Any]:
        """All that decides the result, ready for JSON."""
        fields = {k: v for k, v in asdict(self).items() if k not in LOCATION}
        everything = {"recipe": self.recipe, **fields, **asdict(self.training)}
        everything |= {f"{name}_sha256": digest for name, digest in self._contents().items()}
        return json.loads(json.dumps(everything, default=str))

    def _contents(self) -> dict[str, str]:
        """Field -> SHA-256 of the file it names: a model's code or a saved network."""
        named = {name: str(getattr(self, name, "") or "") for name in ("model", "file")}
        paths = {name: Path(text.rpartition(":")[0] or text) for name, text in named.items()}
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
        """`out`, or a folder that no other run shares."""
        data = self.data.replace(":", "-")
        name = f"{self.recipe}-{data}-{self.fingerprint()}"
        return Path("runs", name) if self.out is None else Path(self.out)

    def load_data(self) -> DataBundle:
        """The data set; its split follows from the seed."""
        return load_data(
            self.data, data_dir=self.data_dir, seed=self.seed, download=self.download
        ).to(self.open_device())

    def open_device(self) -> torch.device:
        """The device, tried out; ValueError if this machine has none of that name."""
        try:
            return torch.empty(1, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise argument_error(
                self.recipe, "device", f"is not to be had ({reason})", self.device
            ) from error

    @property
    def loss_fn(self) -> LossFn:
        """What the model is trained by, and what is reported as its loss."""
        return loss_of(self.model)

    def new_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The run's optimizer over all parameters of the model."""
        return make_optimizer(model, self.training)

    def change_rate(self, first_epoch: int = 0) -> ChangeRate:
        """The run's learning rate schedule, from an epoch on."""
        hparams = self.training
        return ChangeRate(hparams.lr_schedule, first_epoch, hparams.lr_step, hparams.lr_factor)

    def new_model(self, data: DataBundle, algebra: str, seed: int) -> nn.Module:
        """The run's model for the data, freshly initialized, on the run's device."""
        shapes = (data.in_shape, data.num_classes)
        return build(self.model, algebra, *shapes, seed, **self.model_options()).to(self.device)

    def model_options(self) -> dict[str, Any]:
        """What the model is built with beyond what all models take."""
        return {"graph": self.graph, "degree": self.degree} if self.graph else {}

    @contextmanager
    def processor(self) -> Iterator[None]:
        """Inside, torch computes with the run's number of threads."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
