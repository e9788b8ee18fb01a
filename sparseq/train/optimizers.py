"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from sparseq.errors import require
from sparseq.models import HParams
from sparseq.registry import Registry

Factory = Callable[[Iterable[nn.Parameter], HParams], Optimizer]

OPTIMIZERS: Registry[Factory] = Registry("optimizer")
# of Adam's paper; of SGD with the schedule and momentum of the models that train with it
USUAL_RATES = {"adam": 1e-3, "sgd": 0.05}
FUSED_DEVICES = ("cpu", "cuda")


def make_optimizer(model: nn.Module, hparams: HParams) -> Optimizer:
    """The optimizer described by `hparams`, over the model's trainable parameters.

    Raises:
        ValueError: an unknown name, an lr that is not positive, or no trainable parameters.
    """
    require(hparams.lr > 0, "make_optimizer", "lr", "must be positive", hparams.lr)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    require(bool(trainable), "make_optimizer", "model", "must have trainable parameters", "none")
    return OPTIMIZERS.get(hparams.optimizer)(trainable, hparams)


def usual_rate(name: str) -> float:
    """The learning rate of an optimizer with which a model does not usually train.

    Raises:
        ValueError: an optimizer that has none.
    """
    OPTIMIZERS.get(name)  # so that the error speaks of an unknown optimizer
    rule = f"must be set (--lr) for an optimizer other than {', '.join(USUAL_RATES)}"
    require(name in USUAL_RATES, "optimizer", "lr", rule, name)
    return USUAL_RATES[name]


@OPTIMIZERS.register("adam")
def make_adam(parameters: Iterable[nn.Parameter], hparams: HParams) -> Optimizer:
    """Adam (Kingma & Ba 2015); ignores `momentum`."""
    parameters = list(parameters)
    # on a CPU the plain step is a third of the training time, the fused step half of that
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in parameters)
    return torch.optim.Adam(parameters, hparams.lr, weight_decay=hparams.weight_decay, fused=fused)


@OPTIMIZERS.register("sgd")
def make_sgd(parameters: Iterable[nn.Parameter], hparams: HParams) -> Optimizer:
    """Stochastic gradient descent with classical or Nesterov momentum."""
    return torch.optim.SGD(
        parameters,
        hparams.lr,
        hparams.momentum,
        weight_decay=hparams.weight_decay,
        nesterov=hparams.nesterov,
    )
