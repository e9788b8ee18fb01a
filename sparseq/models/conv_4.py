"""Conv-4: four convolutions and three fully connected layers (Frankle & Carbin 2019)."""

from __future__ import annotations

from torch import nn

from sparseq.models.catalog import MODELS, STD_HPARAMS, HParams
from sparseq.models.conv_stack import conv_stack

NAME = "conv_4"


@MODELS.register(NAME)
def build_conv_4(
    algebra: str = "real",
    in_shape: tuple[int, ...] = (3, 32, 32),
    num_classes: int = 10,
    seed: int = 0,
) -> nn.Module:
    """64-64, 128-128, 256-256-10 on CIFAR-10: 2,425,930 parameters real, 609,226 quaternion."""
    return conv_stack((64, 128), algebra, in_shape, num_classes, seed)


@STD_HPARAMS.register(NAME)
def std_hparams() -> HParams:
    """Adam 3e-4, batches of 60, 40 epochs (Frankle & Carbin 2019; Iqbal & Mishra 2023)."""
    return HParams(epochs=40, batch_size=60, optimizer="adam", lr=3e-4)
