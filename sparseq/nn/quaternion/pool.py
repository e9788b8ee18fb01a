"""Pooling of quaternion maps."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.conv_padding import per_dimension
from sparseq.nn.layer_types import layer_type
from sparseq.ops.quaternion_norm import sums_dtype


@layer_type()
class QMaxPool2d(nn.Module):
    """Max pooling of quaternions: selects in each window the quaternion with the largest norm.

    Channels are stored in four blocks [r | i | j | k]. Among equal norms the first of the window,
    in row-major order, is selected, so that the result is deterministic; a NaN counts as the
    largest. The gradient is passed to the selected quaternion. (For pooling each component
    separately, use `nn.MaxPool2d`.)

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as in `nn.MaxPool2d`; the stride is the
            kernel_size by default, and padding is never selected.

    Raises:
        ValueError: settings that are no integers or too small, x of another shape than
            (N, 4 C, H, W) or (4 C, H, W).
        RuntimeError: other settings that `nn.MaxPool2d` refuses.

    Source: the amplitude pooling of Yin et al. 2019, "Quaternion convolutional neural network for
    color image classification and forensics".
    """

    __constants__: ClassVar[list[str]] = ["kernel_size", "stride", "padding", "dilation"]

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode
        for name in self.__constants__:
            per_dimension("QMaxPool2d", name, getattr(self, name), dims=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4 C, H, W) -> (N, 4 C, H', W'), or the same without N."""
        fits = x.dim() in (3, 4) and x.shape[-3] % 4 == 0
        require(fits, "QMaxPool2d", "x", "must have shape (N, 4 C, H, W)", tuple(x.shape))
        require(not x.is_complex(), "QMaxPool2d", "x", "must be real", x.dtype)
        parts = x.unflatten(-3, (4, -1))
        norms = parts.detach().to(sums_dtype(x)).square().sum(-4)  # 16-bit squares overflow
        _, positions = F.max_pool2d(
            norms,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            return_indices=True,
        )
        index = positions.flatten(-2).unsqueeze(-3).expand(*parts.shape[:-2], -1)
        selected = parts.flatten(-2).gather(-1, index)
        y: Tensor = selected.unflatten(-1, positions.shape[-2:]).flatten(-4, -3)
        return y

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
