"""The registries of models, of their standard hyperparameters and of their losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparseq.files.model_file import MODEL_BUILDERS
from sparseq.registry import Registry


@dataclass(frozen=True)
class HParams:
    """Standard hyperparameters of a model: the defaults of a recipe's flags.

    Attributes:
        epochs: passes over the training data.
        batch_size: examples per step.
        optimizer: name of an optimizer of `sparseq.train`.
        lr: learning rate.
        momentum: of SGD; ignored by Adam.
        weight_decay: L2 coefficient.
        nesterov: Nesterov momentum instead of classical momentum (SGD).
        lr_schedule: name of a learning rate schedule of `sparseq.train`.
        lr_step, lr_factor: for schedule "step": multiply lr by lr_factor every lr_step epochs.
    """

    epochs: int = 40
    batch_size: int = 60
    optimizer: str = "adam"
    lr: float = 1.2e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    lr_schedule: str = "constant"
    lr_step: int = 30
    lr_factor: float = 0.1


# a builder accepts in_shape, with a default, and seed; num_classes if it is a classifier, algebra
# if it supports quaternions; and further options of that model, all by keyword
Builder = Callable[..., nn.Module]

MODELS: Registry[Builder] = MODEL_BUILDERS  # files rebuild models through it
STD_HPARAMS: Registry[Callable[[], HParams]] = Registry("model hyperparameters")
# loss(outputs, classes) -> mean over the batch, for models that are not classifiers
LOSSES: Registry[Callable[[Any, Tensor], Tensor]] = Registry("model loss")


def stepwise_hparams() -> HParams:
    """SGD 0.05 with Nesterov momentum, halved every 30 of 300 epochs (Stewart et al. 2023)."""
    return HParams(
        epochs=300,
        batch_size=128,
        optimizer="sgd",
        lr=0.05,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        lr_schedule="step",
        lr_step=30,
        lr_factor=0.5,
    )
