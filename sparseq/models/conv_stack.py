"""Small VGG-like networks: pairs of convolutions, then fully connected layers."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sparseq.models.layers import Layers, check_classes, check_images
from sparseq.models.perceptron import add_hidden

HIDDEN = (256, 256)


def conv_stack(
    widths: tuple[int, ...], algebra: str, in_shape: tuple[int, ...], num_classes: int, seed: int
) -> nn.Sequential:
    """Two 3x3 convolutions and a 2x2 pooling per width, then 256-256 and a real output layer.

    Args:
        widths: channels of each pair of convolutions.
        algebra: "real" or "quaternion" (of all layers but the output; the first module turns RGB
            and gray images into quaternions, so that both accept the same images).
        in_shape: (channels, height, width), large enough for every pooling.
        num_classes: width of the output.
        seed: of the weights, see `Layers`.

    Raises:
        ValueError: an unknown algebra, or examples that are not images or are too small.

    Source: Frankle & Carbin 2019, "The lottery ticket hypothesis", figure 2.
    """
    layers, shrink = Layers(algebra, seed), 2 ** len(widths)
    name = f"conv_{2 * len(widths)}"
    check_images(name, in_shape, smallest=shrink)
    check_classes(name, num_classes)
    first, channels = layers.images(in_shape[0])
    parts: OrderedDict[str, nn.Module] = OrderedDict(first)
    for pair, width in enumerate(widths):
        for number in (2 * pair + 1, 2 * pair + 2):
            parts[f"conv{number}"] = layers.conv(channels, width)
            parts[f"conv{number}_relu"] = nn.ReLU()
            channels = width
        parts[f"pool{pair + 1}"] = nn.MaxPool2d(2)
    parts["flatten"] = nn.Flatten()
    pixels = (in_shape[1] // shrink) * (in_shape[2] // shrink)
    width = add_hidden(parts, layers, channels * pixels, HIDDEN)
    parts["out"] = layers.output(width, num_classes)
    return nn.Sequential(parts)
