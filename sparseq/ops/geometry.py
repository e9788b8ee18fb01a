"""Stride, padding and dilation of convolutions: their checks and the sizes that follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparseq.errors import require

Sizes = int | Sequence[int]
Geometry = tuple[list[int], list[int], list[int]]  # stride, padding, dilation


def numbers(op: str, name: str, value: Sizes, dims: int) -> list[int]:
    """One number for each dimension; ValueError for another count."""
    found = [value] * dims if isinstance(value, int) else list(value)
    if len(found) != dims:
        require(False, op, name, f"must be one number or {dims}", value)
    return found


def geometry_of(op: str, dims: int, stride: Sizes, padding: Sizes, dilation: Sizes) -> Geometry:
    """Stride, padding and dilation, a number for each dimension; ValueError if out of range."""
    found = (
        numbers(op, "stride", stride, dims),
        numbers(op, "padding", padding, dims),
        numbers(op, "dilation", dilation, dims),
    )
    if min(found[0]) < 1 or min(found[2]) < 1 or min(found[1]) < 0:
        rule = "must be positive, positive and not negative"
        require(False, op, "stride, dilation and padding", rule, (found[0], found[2], found[1]))
    return found


def check_image(op: str, x: Tensor, channels: int, dims: int) -> None:
    """ValueError unless x is (n, channels, *spatial) or (channels, *spatial)."""
    if x.dim() not in (dims + 1, dims + 2) or x.shape[-dims - 1] != channels:
        rule = f"must have {channels} channels before {dims} spatial dimensions"
        require(False, op, "x", rule, tuple(x.shape))


def out_sizes(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Spatial sizes of a convolution's result: (n + 2 p - d (k - 1) - 1) // s + 1."""
    parts = zip(sizes, kernel, stride, padding, dilation, strict=True)
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in parts]


def transposed_sizes(
    op: str, sizes: Sequence[int], kernel: Sequence[int], geometry: Geometry, extra: Sequence[int]
) -> list[int]:
    """Spatial sizes of a transposed convolution, (n - 1) s - 2 p + d (k - 1) + e + 1, checked."""
    found = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, d, e in zip(sizes, kernel, *geometry, extra, strict=True)
    ]
    if not all(0 <= e < max(s, d) for s, d, e in zip(geometry[0], geometry[2], extra, strict=True)):
        require(False, op, "output_padding", "must be below stride or dilation", tuple(extra))
    if min(found) < 1:
        require(False, op, "x", f"must give a result, not one of {found}", tuple(sizes))
    return found


def format_of(x: Tensor) -> torch.memory_format:
    """Channels last if x is that and nothing else."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not x.is_contiguous() else torch.contiguous_format
