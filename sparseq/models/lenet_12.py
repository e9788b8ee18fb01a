"""LeNet-12: one hidden layer of twelve units, the smallest network of Iqbal & Mishra 2023."""

from __future__ import annotations

from torch import nn

from sparseq.models.catalog import MODELS, STD_HPARAMS, HParams
from sparseq.models.perceptron import perceptron

NAME = "lenet_12"


@MODELS.register(NAME)
def build_lenet_12(
    algebra: str = "real",
    in_shape: tuple[int, ...] = (1, 28, 28),
    num_classes: int = 10,
    seed: int = 0,
) -> nn.Module:
    """784-12-10 on MNIST: 9,550 parameters real, 2,494 quaternion."""
    return perceptron((12,), algebra, in_shape, num_classes, seed)


@STD_HPARAMS.register(NAME)
def std_hparams() -> HParams:
    """Adam 1.2e-3, batches of 60, 40 epochs (Iqbal & Mishra 2023)."""
    return HParams(epochs=40, batch_size=60, optimizer="adam", lr=1.2e-3)
