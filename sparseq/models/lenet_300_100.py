"""LeNet-300-100: two hidden layers (LeCun et al. 1998)."""

from __future__ import annotations

from torch import nn

from sparseq.models.catalog import MODELS, STD_HPARAMS, HParams
from sparseq.models.perceptron import perceptron

NAME = "lenet_300_100"


@MODELS.register(NAME)
def build_lenet_300_100(
    algebra: str = "real",
    in_shape: tuple[int, ...] = (1, 28, 28),
    num_classes: int = 10,
    seed: int = 0,
) -> nn.Module:
    """784-300-100-10 on MNIST: 266,610 parameters real, 67,710 quaternion."""
    return perceptron((300, 100), algebra, in_shape, num_classes, seed)


@STD_HPARAMS.register(NAME)
def std_hparams() -> HParams:
    """Adam 1.2e-3, batches of 60, 40 epochs (Iqbal & Mishra 2023; Frankle & Carbin 2019)."""
    return HParams(epochs=40, batch_size=60, optimizer="adam", lr=1.2e-3)
