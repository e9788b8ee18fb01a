"""LeNet-5 of the Caffe examples: two wide convolutions, two fully connected layers."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sparseq.models.catalog import MODELS, STD_HPARAMS, HParams
from sparseq.models.layers import Layers, check_classes, check_images

NAME = "lenet5_caffe"
SMALLEST = 16


@MODELS.register(NAME)
def build_lenet5_caffe(
    in_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10, seed: int = 0
) -> nn.Module:
    """20 and 50 5x5 convolutions with 2x2 pooling, 800-500-10 on MNIST: 431,080 parameters.

    The only ReLU precedes the output layer. Real only, as 50 channels are not divisible by 4.
    Source: Jia et al. 2014, "Caffe: convolutional architecture for fast feature embedding".
    """
    check_images(NAME, in_shape, SMALLEST)
    check_classes(NAME, num_classes)
    layers = Layers("real", seed)
    height, width = (((size - 4) // 2 - 4) // 2 for size in in_shape[1:])
    return nn.Sequential(
        OrderedDict(
            conv1=layers.conv(in_shape[0], 20, 5, padding=0),
            pool1=nn.MaxPool2d(2),
            conv2=layers.conv(20, 50, 5, padding=0),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=layers.linear(50 * height * width, 500),
            fc1_relu=nn.ReLU(),
            out=layers.output(500, num_classes),
        )
    )


@STD_HPARAMS.register(NAME)
def std_hparams() -> HParams:
    """Adam 1.2e-3, batches of 60, 40 epochs, like the fully connected LeNets."""
    return HParams(epochs=40, batch_size=60, optimizer="adam", lr=1.2e-3)
