"""The fused path of `nn.TransformerEncoderLayer`, which passes over the layers that it contains.

In evaluation mode torch computes an encoder layer by one kernel from the weights of its linear
layers, without calling these. It does so only if the attribute `activation_relu_or_gelu` is 1 or 2.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn

FUSED = {1: (F.relu, nn.ReLU), 2: (F.gelu, nn.GELU)}


def use_layers_of_encoders(model: nn.Module) -> None:
    """Make every encoder layer call its linear layers if one was replaced, in place.

    An encoder layer whose linear layers are those of torch again gets its fused path back.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            plain = type(module.linear1) is type(module.linear2) is nn.Linear
            if not plain or not module.activation_relu_or_gelu:
                module.activation_relu_or_gelu = _fused_activation(module) if plain else 0


def _fused_activation(encoder: Any) -> int:
    """The value that torch's constructor sets for the activation of an encoder layer."""
    activation = encoder.activation
    fused = (n for n, (f, kind) in FUSED.items() if activation is f or isinstance(activation, kind))
    return next(fused, 0)
