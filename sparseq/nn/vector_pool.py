"""Max pooling of real maps by whole vectors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparseq.nn.layer_types import layer_type
from sparseq.ops.max_pool import max_pool


@layer_type(twin=nn.MaxPool2d, op="max_pool")
class VectorMaxPool2d(nn.MaxPool2d):
    """nn.MaxPool2d, whose windows of 2x2 pixels side by side are computed by whole vectors.

    Result and gradient are those of `nn.MaxPool2d` to the bit; other windows and memory layouts go
    to torch. No indices are kept for the gradient.

    Args:
        kernel_size, stride, padding, dilation, return_indices, ceil_mode: as in `nn.MaxPool2d`.
    """

    def forward(self, x: Tensor) -> Any:
        """(N, C, H, W) -> (N, C, H', W'); without N too."""
        fits = x.dim() in (3, 4) and min(x.shape[-2:]) > 1 and x.is_contiguous()
        if fits and x.is_floating_point() and self._halves(x):
            return max_pool(x)
        return super().forward(x)

    def _halves(self, x: Tensor) -> bool:
        """Whether the windows are 2x2, side by side, and none sticks out."""
        pairs = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1}
        plain = all(is_both(getattr(self, name), number) for name, number in pairs.items())
        odd = x.shape[-1] % 2 or x.shape[-2] % 2
        return plain and not self.return_indices and not (self.ceil_mode and odd)

    def to_dense(self) -> nn.MaxPool2d:
        """The layer of torch with the same arguments."""
        names = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
        return nn.MaxPool2d(**{name: getattr(self, name) for name in names})


def is_both(given: Any, number: int) -> bool:
    """Whether an argument for two dimensions is this number in both."""
    return given in (number, (number, number), [number, number])
