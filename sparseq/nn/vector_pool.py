"""Vectorized max pooling of real maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparseq.nn.layer_types import layer_type
from sparseq.ops.max_pool import max_pool


@layer_type(twin=nn.MaxPool2d, op="max_pool")
class VectorMaxPool2d(nn.MaxPool2d):
    """nn.MaxPool2d with a vectorized kernel for non-overlapping windows of 2x2 pixels.

    Result and gradient are bit-identical to those of `nn.MaxPool2d`, which computes other windows
    and memory formats. The gradient needs no stored indices.

    Args:
        kernel_size, stride, padding, dilation, return_indices, ceil_mode: as in `nn.MaxPool2d`.
    """

    def forward(self, x: Tensor) -> Any:
        """(N, C, H, W) -> (N, C, H', W'), or the same without N."""
        fits = x.dim() in (3, 4) and min(x.shape[-2:]) > 1 and x.is_contiguous()
        if fits and x.is_floating_point() and self._is_2x2(x):
            return max_pool(x)
        return super().forward(x)

    def _is_2x2(self, x: Tensor) -> bool:
        """Whether the windows are 2x2, do not overlap, and end within the map."""
        settings = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1}
        fits = all(is_both(getattr(self, name), size) for name, size in settings.items())
        is_odd = x.shape[-1] % 2 or x.shape[-2] % 2
        return fits and not self.return_indices and not (self.ceil_mode and is_odd)

    def to_dense(self) -> nn.MaxPool2d:
        """The layer of torch with the same arguments."""
        names = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
        return nn.MaxPool2d(**{name: getattr(self, name) for name in names})


def is_both(argument: Any, size: int) -> bool:
    """Whether an argument for two dimensions is this size in both."""
    return argument in (size, (size, size), [size, size])
