"""Checks of the arguments of a quaternion convolution and of its two gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sparseq.errors import require, unknown_name
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops.geometry import (
    Geometry,
    check_geometry,
    check_image,
    check_places,
    geometry_of,
    out_sizes,
)
from sparseq.ops.hamilton import ALGORITHMS


def check_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, groups: int
) -> None:
    """ValueError unless x and bias match a checked weight and geometry."""
    op, dims = "hamilton_conv", weight.dim() - 3
    check_image(op, x, 4 * weight.shape[2] * groups, dims)
    if bias is not None and bias.shape != (4 * weight.shape[1],):
        require(False, op, "bias", f"must have shape ({4 * weight.shape[1]},)", tuple(bias.shape))
    if x.dtype != weight.dtype or (bias is not None and bias.dtype != weight.dtype):
        refuse_dtypes(op, "weight", {"x": x, "bias": bias, "weight": weight})
    _check_sizes(op, x.shape[-dims:], weight.shape[3:], geometry)


def _check_sizes(
    op: str, sizes: Sequence[int], kernel: Sequence[int], geometry: Geometry
) -> list[int]:
    """The sizes of the convolution's result, checked."""
    check_geometry(op, kernel, *geometry)
    check_places(op, sizes, geometry[1])
    result = out_sizes(sizes, kernel, *geometry)
    if min(result) < 1:
        rule = f"must be no larger than the padded input {tuple(sizes)}"
        require(False, op, "kernel", rule, tuple(kernel))
    return result


def check_gradient(
    op: str, channels: tuple[int, int], sizes: Sequence[int], kernel: Sequence[int], settings: Any
) -> Sequence[int]:
    """Shape of dy after the batch for `channels` quaternions of y and x, checked."""
    *geometry, groups, algorithm = settings
    if algorithm not in ALGORITHMS:
        raise unknown_name("hamilton algorithm", algorithm, ALGORITHMS)
    if groups < 1 or channels[0] % groups or channels[1] % groups:
        require(False, op, "groups", f"must divide {channels} quaternions", groups)
    if not 1 <= len(kernel) <= 3 or len(sizes) != len(kernel):
        rule = "must have as many spatial dimensions as the input, 1 to 3"
        require(False, op, "kernel", rule, tuple(kernel))
    stride, padding, dilation = geometry_of(op, len(kernel), *geometry)
    return 4 * channels[0], *_check_sizes(op, sizes, kernel, (stride, padding, dilation))


def check_weight(op: str, weight: Tensor, groups: int, algorithm: str) -> int:
    """Check the arguments that both directions share; returns the number of spatial dimensions."""
    if algorithm not in ALGORITHMS:
        raise unknown_name("hamilton algorithm", algorithm, ALGORITHMS)
    if not 4 <= weight.dim() <= 6 or weight.shape[0] != 4:
        rule = "must have shape (4, m, k, *kernel) with 1 to 3 kernel dimensions"
        require(False, op, "weight", rule, tuple(weight.shape))
    if groups < 1 or weight.shape[1] % groups:
        require(False, op, "groups", f"must divide {weight.shape[1]} quaternions", groups)
    return weight.dim() - 3


def check_pair(op: str, dy: Tensor, shape: Sequence[int], name: str, other: Tensor) -> None:
    """ValueError unless dy has a shape, and the dtype of the tensor of that name."""
    if dy.shape != tuple(shape):
        require(False, op, "dy", f"must have shape {tuple(shape)}", tuple(dy.shape))
    if dy.dtype != other.dtype:
        refuse_dtypes(op, "dy", {name: other, "dy": dy})
