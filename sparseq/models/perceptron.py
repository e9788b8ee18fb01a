"""Multilayer perceptrons, real or quaternion."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from sparseq.errors import require
from sparseq.models.layers import Layers, check_classes


def perceptron(
    hidden: tuple[int, ...],
    algebra: str,
    in_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    bias: bool = True,
) -> nn.Sequential:
    """Flatten, fully connected layers of widths `hidden` with ReLU, and a real output layer.

    Args:
        hidden: width of each hidden layer, in real features.
        algebra: "real" or "quaternion" (of the hidden layers).
        in_shape: shape of one example.
        num_classes: width of the output, at least 1.
        seed: of the weights, see `Layers`.
        bias: whether the layers have biases.

    Raises:
        ValueError: an unknown algebra, an empty shape, or quaternion widths not divisible by 4.
    """
    layers = Layers(algebra, seed)
    rule = "must have sizes of at least 1"
    require(bool(in_shape) and min(in_shape) > 0, "perceptron", "in_shape", rule, tuple(in_shape))
    check_classes("perceptron", num_classes)
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = add_hidden(parts, layers, math.prod(in_shape), hidden, bias)
    parts["out"] = layers.output(width, num_classes, bias)
    return nn.Sequential(parts)


def add_hidden(
    parts: OrderedDict[str, nn.Module],
    layers: Layers,
    width: int,
    hidden: tuple[int, ...],
    bias: bool = True,
) -> int:
    """Append fully connected layers fc1, fc2, ... with ReLU; returns the width of the last."""
    for number, features in enumerate(hidden, start=1):
        parts[f"fc{number}"] = layers.linear(width, features, bias)
        parts[f"fc{number}_relu"] = nn.ReLU()
        width = features
    return width
