"""ResNet-20: three narrow stages, for CIFAR (He et al. 2016, section 4.2)."""

from __future__ import annotations

from torch import nn

from sparseq.models.catalog import MODELS, STD_HPARAMS, HParams
from sparseq.models.layers import Layers
from sparseq.models.residual import Plan, residual_network

PLAN = Plan("resnet20", blocks=(3, 3, 3), widths=(16, 32, 64))


@MODELS.register(PLAN.name)
def build_resnet20(
    algebra: str = "real",
    in_shape: tuple[int, ...] = (3, 32, 32),
    num_classes: int = 10,
    seed: int = 0,
) -> nn.Module:
    """Three stages of three blocks: 272,474 parameters real, 72,170 quaternion on CIFAR-10.

    Shortcuts between different shapes are 1x1 convolutions; see `residual_network`.
    """
    return residual_network(PLAN, Layers(algebra, seed), in_shape, num_classes, stem="cifar")


@STD_HPARAMS.register(PLAN.name)
def std_hparams() -> HParams:
    """SGD 1e-2 with momentum, batches of 128, 80 epochs (Iqbal & Mishra 2023)."""
    return HParams(
        epochs=80, batch_size=128, optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-4
    )
