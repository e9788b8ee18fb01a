"""Chains of fully connected layers, real or quaternion."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn.utils import skip_init

from sparseq.errors import require, unknown_name
from sparseq.nn.quaternion import QLinear
from sparseq.seeds import derived_generator

ALGEBRAS = ["real", "quaternion"]


def perceptron(
    hidden: tuple[int, ...], algebra: str, in_shape: tuple[int, ...], num_classes: int, seed: int
) -> nn.Sequential:
    """Flatten, then `hidden` fully connected layers with ReLU, then a real output layer.

    Weights are drawn from the He distribution (variance 2 / fan-in; for quaternion layers see
    `sparseq.nn.init`), biases are zero. The global random state is neither read nor changed.

    Args:
        hidden: width of each hidden layer, in real features.
        algebra: "real" or "quaternion" (of the hidden layers).
        in_shape: shape of one example.
        num_classes: width of the output, at least 1.
        seed: of the weights.

    Raises:
        ValueError: an unknown algebra, an empty shape, or widths that quaternions do not divide.
    """
    _check(algebra, in_shape, num_classes)
    generator = derived_generator("weights", seed)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = math.prod(in_shape)
    for number, features in enumerate(hidden, start=1):
        layers[f"fc{number}"] = linear(width, features, algebra, generator)
        layers[f"relu{number}"] = nn.ReLU()
        width = features
    layers["out"] = linear(width, num_classes, "real", generator)
    return nn.Sequential(layers)


def linear(
    in_features: int, out_features: int, algebra: str, generator: torch.Generator
) -> nn.Module:
    """A fully connected layer of either algebra with He weights drawn from `generator`."""
    if algebra == "quaternion":
        return QLinear(in_features, out_features, generator=generator)
    layer = skip_init(nn.Linear, in_features, out_features)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _check(algebra: str, in_shape: tuple[int, ...], num_classes: int) -> None:
    if algebra not in ALGEBRAS:
        raise unknown_name("algebra", algebra, ALGEBRAS)
    require(
        bool(in_shape) and min(in_shape) > 0,
        "perceptron",
        "in_shape",
        "must have sizes of at least 1",
        tuple(in_shape),
    )
    require(num_classes >= 1, "perceptron", "num_classes", "must be at least 1", num_classes)
