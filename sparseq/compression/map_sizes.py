"""Sizes of the maps on which the convolutions of a model operate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseq.compression.break_even import is_convolution
from sparseq.errors import argument_error, require
from sparseq.nn.computed import copy_model


def output_positions(module: Any, y: Tensor) -> int:
    """Output positions of a convolution, over all images of the batch."""
    return y.numel() // int(module.out_channels)


def map_sizes(model: nn.Module, in_shape: tuple[int, ...]) -> dict[str, list[int]]:
    """Path of each convolution -> its output positions for one example, one number per call.

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
    twin, sizes = copy_model(model).eval(), dict[str, list[int]]()
    for path, module in twin.named_modules():
        if is_convolution(module):
            sizes[path] = []

            def record(module: Any, _: Any, y: Tensor, calls: list[int] = sizes[path]) -> None:
                calls.append(output_positions(module, y))

            module.register_forward_hook(record)
    like = next(filter(torch.is_floating_point, twin.parameters()), torch.empty(0))
    with torch.no_grad(), torch.random.fork_rng([like.device] if like.is_cuda else []):
        try:
            twin(like.new_zeros(1, *in_shape))
        except (RuntimeError, ValueError, TypeError) as error:
            rule = f"must be the shape of one example that the model accepts ({error})"
            raise argument_error("compress", "in_shape", rule, in_shape) from error
    return sizes
