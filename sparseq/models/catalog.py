"""The registries of models and of the hyperparameters they are usually trained with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparseq.files.model_file import MODEL_BUILDERS
from sparseq.registry import Registry


@dataclass(frozen=True)
class HParams:
    """How a model is usually trained; recipes take these where nothing else is asked.

    Attributes:
        epochs: passes over the training data.
        batch_size: examples per step.
        optimizer: name of an optimizer of `sparseq.train`.
        lr: learning rate.
        momentum: of SGD; Adam takes no notice.
        weight_decay: L2 coefficient.
        nesterov: Nesterov's momentum instead of the plain one (SGD).
        lr_schedule: name of a learning rate schedule of `sparseq.train`.
        lr_step, lr_factor: of schedule "step": every lr_step epochs times lr_factor.
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


# a builder takes in_shape, with a default, and seed; a classifier also num_classes, one that can
# be quaternion also algebra; and options of its own, all by name
Builder = Callable[..., nn.Module]

MODELS: Registry[Builder] = MODEL_BUILDERS  # files rebuild models through it
STD_HPARAMS: Registry[Callable[[], HParams]] = Registry("model hyperparameters")
# loss(outputs, classes) -> mean over the batch, of a model that is no classifier
LOSSES: Registry[Callable[[Any, Tensor], Tensor]] = Registry("model loss")


def stepwise_hparams() -> HParams:
    """SGD 0.05 with Nesterov's momentum, halved every 30 of 300 epochs (Stewart et al. 2023)."""
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
