"""Stride, padding and dilation of convolutions: checks, and the sizes of results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparseq.errors import require

MOST_PLACES = 2**31 - 1  # of an axis with its padding, and of a stride or a dilation
MOST_TAPS = 2**24

Sizes = int | Sequence[int]
Geometry = tuple[list[int], list[int], list[int]]  # stride, padding, dilation


def per_dimension(op: str, name: str, value: Sizes, dims: int) -> list[int]:
    """The value as a list of one integer per dimension; ValueError for another length."""
    integers = [value] * dims if isinstance(value, int) else list(value)
    if len(integers) != dims:
        require(False, op, name, f"must be one integer or {dims}", value)
    return integers


def geometry_of(op: str, dims: int, stride: Sizes, padding: Sizes, dilation: Sizes) -> Geometry:
    """Stride, padding and dilation, one integer per dimension; ValueError if out of range."""
    strides = per_dimension(op, "stride", stride, dims)
    paddings = per_dimension(op, "padding", padding, dims)
    dilations = per_dimension(op, "dilation", dilation, dims)
    check_geometry(op, (1,) * dims, strides, paddings, dilations)
    return strides, paddings, dilations


def check_geometry(
    op: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> None:
    """ValueError unless all numbers are in range; they have one entry per dimension."""
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        rule, got = "must be positive, positive and not negative", (stride, dilation, padding)
        require(False, op, "stride, dilation and padding", rule, got)
    if max(*stride, *dilation, *padding) > MOST_PLACES:
        rule = f"must be at most {MOST_PLACES}"
        require(False, op, "stride, dilation and padding", rule, (stride, dilation, padding))
    if min(kernel) < 1 or math.prod(kernel) > MOST_TAPS:
        require(False, op, "kernel", f"must have from 1 to {MOST_TAPS} taps", tuple(kernel))


def check_places(op: str, sizes: Sequence[int], padding: Sequence[int]) -> None:
    """ValueError unless images of these sizes have few enough places with their padding."""
    if any(n < 0 or n + 2 * p > MOST_PLACES for n, p in zip(sizes, padding, strict=True)):
        rule = f"must have from 0 to {MOST_PLACES} places along each axis, with the padding"
        require(False, op, "x", rule, tuple(sizes))


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
    dimensions = zip(sizes, kernel, stride, padding, dilation, strict=True)
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in dimensions]


def transposed_sizes(
    op: str, sizes: Sequence[int], kernel: Sequence[int], geometry: Geometry, extra: Sequence[int]
) -> list[int]:
    """Spatial sizes of a transposed convolution, (n - 1) s - 2 p + d (k - 1) + e + 1, checked."""
    result = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, d, e in zip(sizes, kernel, *geometry, extra, strict=True)
    ]
    if not all(0 <= e < max(s, d) for s, d, e in zip(geometry[0], geometry[2], extra, strict=True)):
        require(False, op, "output_padding", "must be below stride or dilation", tuple(extra))
    if min(result) < 1:
        rule = f"must be large enough for a positive output size, not {result}"
        require(False, op, "x", rule, tuple(sizes))
    return result


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Channels last if x is channels-last and not contiguous as well."""
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    if channels_last and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


class ConvGeometry(NamedTuple):
    """The geometry of a convolution; each tuple has one integer per spatial dimension.

    Attributes:
        kernel_size, stride, padding, dilation: as in `F.conv2d`.
        output_padding: as in `F.conv_transpose2d`, below the stride; only used when transposed.
        groups: divides both numbers of channels.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int = 1

    @classmethod
    def of(
        cls,
        kernel_size: Sequence[int],
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> ConvGeometry:
        """With the same stride, padding and dilation in every dimension."""
        size = tuple(kernel_size)
        same = [(setting,) * len(size) for setting in (stride, padding, dilation, 0)]
        return cls(size, same[0], same[1], same[2], same[3], groups)

    @classmethod
    def from_flat(cls, flat: Sequence[int]) -> ConvGeometry:
        """The inverse of `flat`."""
        dims = len(flat) // 5
        if len(flat) % 5 != 1 or not 1 <= dims <= 3:
            rule = "must hold five numbers per dimension and the groups"
            require(False, "sparse_conv", "geometry", rule, len(flat))
        parts = [tuple(flat[start * dims : (start + 1) * dims]) for start in range(5)]
        return cls(parts[0], parts[1], parts[2], parts[3], parts[4], flat[-1])

    def flat(self) -> list[int]:
        """All fields as one list of 5 dims + 1 integers, the op's `geometry`."""
        return [setting for part in self[:5] for setting in part] + [self.groups]

    def check(self, op: str) -> None:
        """ValueError that names the op unless all numbers are in range."""
        check_geometry(op, self.kernel_size, self.stride, self.padding, self.dilation)
        extra = zip(self.output_padding, self.stride, strict=True)
        if self.groups < 1 or not all(0 <= e < s for e, s in extra):
            rule = "must have groups from 1, and output_padding from 0 and below the stride"
            require(False, op, "geometry", rule, (self.groups, self.output_padding))

    @property
    def taps(self) -> int:
        """Number of positions of the kernel."""
        return math.prod(self.kernel_size)

    def output_size(self, size: Sequence[int]) -> list[int]:
        """Spatial sizes of y, for those of x."""
        return out_sizes(size, *self[:4])

    def input_size(self, size: Sequence[int]) -> list[int]:
        """Spatial sizes of the transposed convolution's y, for those of its x."""
        return [
            (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
            for n, k, s, p, d, extra in zip(size, *self[:5], strict=True)
        ]

    def transposed_to(self, size: Sequence[int], output: Sequence[int]) -> ConvGeometry:
        """With the output_padding by which the transpose of a y of `output` has the size `size`."""
        smallest = self._replace(output_padding=(0,) * len(self.kernel_size)).input_size(output)
        extra = [
            int(wanted - least) if s > 1 else 0
            for wanted, least, s in zip(size, smallest, self.stride, strict=True)
        ]
        return self._replace(output_padding=tuple(extra))
