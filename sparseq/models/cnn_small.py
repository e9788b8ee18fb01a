"""A small convolutional network with few enough neurons to remove them one at a time."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sparseq.models.catalog import MODELS, STD_HPARAMS, HParams
from sparseq.models.layers import Layers, check_classes, check_images
from sparseq.models.perceptron import add_hidden

NAME = "cnn_small"
SMALLEST = 4


@MODELS.register(NAME)
def build_cnn_small(
    in_shape: tuple[int, ...] = (3, 32, 32), num_classes: int = 10, seed: int = 0
) -> nn.Module:
    """16 and 32 3x3 convolutions with 2x2 pooling, 2048-256-128-10: 563,424 parameters on CIFAR-10.

    The fully connected layers have no biases. Real only.
    """
    check_images(NAME, in_shape, SMALLEST)
    check_classes(NAME, num_classes)
    layers = Layers("real", seed)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=layers.conv(in_shape[0], 16),
        conv1_relu=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=layers.conv(16, 32),
        conv2_relu=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
    )
    pixels = (in_shape[1] // 4) * (in_shape[2] // 4)
    width = add_hidden(parts, layers, 32 * pixels, (256, 128), bias=False)
    parts["out"] = layers.output(width, num_classes, bias=False)
    return nn.Sequential(parts)


@STD_HPARAMS.register(NAME)
def std_hparams() -> HParams:
    """Adam 1e-3, batches of 128, 100 epochs."""
    return HParams(epochs=100, batch_size=128, optimizer="adam", lr=1e-3)
