"""The maps that the convolutions of a model work on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.compression.break_even import is_convolution
from sparseq.errors import argument_error, require


def output_positions(module: Any, y: Tensor) -> int:
    """Places of a convolution's output, over all its images."""
    return y.numel() // module.out_channels


def map_sizes(model: nn.Module, in_shape: tuple[int, ...]) -> dict[str, list[int]]:
    """Path of each convolution -> its output positions for one example, at each of its calls.

    A copy of the model runs once, on zeros, in evaluation mode: the model, its buffers and torch's
    random state stay as they are.

    Args:
        model: any module whose input is one floating point tensor.
        in_shape: shape of one example.

    Raises:
        ValueError: sizes below 1, or a shape that the model does not take.
    """
    positive = bool(in_shape) and all(size >= 1 for size in in_shape)
    require(positive, "compress", "in_shape", "must have sizes of at least 1", in_shape)
    work, found = copy.deepcopy(model).eval(), dict[str, list[int]]()
    for path, module in work.named_modules():
        if is_convolution(module):
            found[path] = []

            def note(module: Any, _: Any, y: Tensor, sizes: list[int] = found[path]) -> None:
                sizes.append(output_positions(module, y))

            module.register_forward_hook(note)
    like = next(filter(torch.is_floating_point, work.parameters()), torch.empty(0))
    with torch.no_grad(), torch.random.fork_rng([like.device] if like.is_cuda else []):
        try:
            work(like.new_zeros(1, *in_shape))
        except (RuntimeError, ValueError, TypeError) as error:
            rule = f"must be the shape of one example that the model takes ({error})"
            raise argument_error("compress", "in_shape", rule, in_shape) from error
    return found
