"""Pooling of quaternion maps."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.layer_types import layer_type
from sparseq.ops.quaternion_norm import sums_dtype


@layer_type()
class QMaxPool2d(nn.Module):
    """Keeps in each window, of each quaternion channel, the quaternion of the largest norm.

    Channels lie in four blocks [r | i | j | k]. Of equal norms the first of the window counts, row
    by row, so that equal inputs give equal outputs; a NaN counts as the largest. Gradients go to
    the quaternion kept. (Pooling each component by itself is `nn.MaxPool2d`.)

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as in `nn.MaxPool2d`; the stride is the
            kernel_size by default, padding is never kept.

    Raises:
        ValueError: maps that are not (N, 4 C, H, W) or (4 C, H, W).
        RuntimeError: what `nn.MaxPool2d` refuses.

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

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4 C, H, W) -> (N, 4 C, H', W'); without N too."""
        fits = x.dim() in (3, 4) and x.shape[-3] % 4 == 0
        require(fits, "QMaxPool2d", "x", "must have shape (N, 4 C, H, W)", tuple(x.shape))
        parts = x.unflatten(-3, (4, -1))
        norms = parts.detach().to(sums_dtype(x)).square().sum(-4)  # squares of 16 bits overflow
        _, places = F.max_pool2d(
            norms,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            return_indices=True,
        )
        chosen = places.flatten(-2).unsqueeze(-3).expand(*parts.shape[:-2], -1)
        kept = parts.flatten(-2).gather(-1, chosen)
        return kept.unflatten(-1, places.shape[-2:]).flatten(-4, -3)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
