"""VGG16 with batch normalization, for images of at least 32x32 pixels."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sparseq.models.catalog import MODELS, STD_HPARAMS, stepwise_hparams
from sparseq.models.layers import Layers, check_classes, check_images

NAME = "vgg16bn"
# channels of the convolutions before each pooling
STAGES = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
SMALLEST = 2 ** len(STAGES)


@MODELS.register(NAME)
def build_vgg16bn(
    algebra: str = "real",
    in_shape: tuple[int, ...] = (3, 32, 32),
    num_classes: int = 10,
    seed: int = 0,
    graph: str = "",
    degree: int = 3,
) -> nn.Module:
    """13 normalized 3x3 convolutions without bias in five stages, then 512-512-10.

    14,986,698 parameters real, 3,770,058 quaternion on CIFAR-10. The last feature maps are
    averaged, which is the identity for images of 32x32. The quaternion network first converts RGB
    and gray images to quaternions, and has a real output layer. With a `graph`, all convolutions
    and the hidden layer are expander layers of that `degree`.

    Source: Simonyan & Zisserman 2015, configuration D; with one hidden layer of 512, as is usual
    for CIFAR (Stewart et al. 2023).
    """
    check_images(NAME, in_shape, SMALLEST)
    check_classes(NAME, num_classes)
    layers = Layers(algebra, seed, graph, degree)
    first, channels = layers.images(in_shape[0])
    parts: OrderedDict[str, nn.Module] = OrderedDict(first)
    for stage, widths in enumerate(STAGES, start=1):
        for number, width in enumerate(widths, start=1):
            name = f"conv{stage}_{number}"
            parts[name] = layers.conv(channels, width, bias=False, sparse=True)
            parts[f"{name}_norm"], parts[f"{name}_relu"] = layers.norm(width), nn.ReLU()
            channels = width
        parts[f"pool{stage}"] = layers.pool()
    parts["average"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    parts["fc1"], parts["fc1_relu"] = layers.linear(channels, 512, sparse=True), nn.ReLU()
    parts["out"] = layers.output(512, num_classes)
    return nn.Sequential(parts)


STD_HPARAMS.register(NAME)(stepwise_hparams)
