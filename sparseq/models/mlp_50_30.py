"""A small perceptron with few enough hidden neurons to remove them one at a time."""

from __future__ import annotations

from torch import nn

from sparseq.models.catalog import MODELS, STD_HPARAMS, HParams
from sparseq.models.perceptron import perceptron

NAME = "mlp_50_30"


@MODELS.register(NAME)
def build_mlp_50_30(
    in_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10, seed: int = 0
) -> nn.Module:
    """784-50-30-10 without biases on MNIST: 41,000 parameters. Real only."""
    return perceptron((50, 30), "real", in_shape, num_classes, seed, bias=False)


@STD_HPARAMS.register(NAME)
def std_hparams() -> HParams:
    """Adam 1e-3, batches of 128, 100 epochs."""
    return HParams(epochs=100, batch_size=128, optimizer="adam", lr=1e-3)
