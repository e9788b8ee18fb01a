"""Sizes of the inputs on which the layers of a model operate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparseq.compression.break_even import is_convolution
from sparseq.compression.calls import Call, tensors_in
from sparseq.compression.example import accepted, observe
from sparseq.errors import require
from sparseq.nn.computed import declared_class
from sparseq.nn.layer_types import sparse_type


def map_sizes(model: nn.Module, in_shape: tuple[int, ...]) -> dict[str, list[int]]:
    """Path of each layer with a sparse twin -> its sizes for one example, one number per call.

    For a convolution these are output positions; for a linear layer rows: the tokens of a
    transformer, 1 where features are flat.

    A copy of the model runs once in evaluation mode, on an example of zeros: the model, its buffers
    and torch's random state are not modified.

    Args:
        model: any module whose input is one floating point tensor.
        in_shape: shape of one example.

    Raises:
        ValueError: sizes below 1, or a shape that the model does not accept.
    """
    positive = bool(in_shape) and all(size >= 1 for size in in_shape)
    require(positive, "compress", "in_shape", "must have sizes of at least 1", in_shape)
    modules = {p: m for p, m in model.named_modules() if sparse_type(declared_class(m)) is not None}
    like = next(filter(torch.is_floating_point, model.parameters()), torch.empty(0))
    call = Call((like.detach().new_zeros(1, *in_shape),), {})
    rule = "must be the shape of one example that the model accepts"
    with accepted("compress", "in_shape", rule, lambda: in_shape):
        _, calls, _ = observe(model, list(modules), call)
    return {path: [_size(modules[path], each) for each in seen] for path, seen in calls.items()}


def _size(layer: Any, call: Call) -> int:
    """Output positions of a convolution, or rows of a linear layer."""
    if is_convolution(layer):
        return call.outputs // max(int(layer.out_channels), 1)
    x = next(tensors_in((call.args, call.kwargs)))
    return x.numel() // max(x.shape[-1], 1)
