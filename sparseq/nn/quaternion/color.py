"""Colored images as quaternions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.layer_types import layer_type

# luma of ITU-R BT.601
RED, GREEN, BLUE = 0.2989, 0.587, 0.114


def rgb_to_quaternion(x: Tensor) -> Tensor:
    """Images as one quaternion a pixel, r + g i + b j + grey k.

        grey = 0.2989 R + 0.587 G + 0.114 B, of the values given, normalized or not

    Args:
        x: (N, 3, H, W), or more or no dimensions before the channels; floating point.

    Returns:
        (N, 4, H, W), the channels R, G, B and grey, in the dtype of x.

    Raises:
        ValueError: other channels than three, or integers.

    Source: Gaudet & Maida 2018, "Deep Quaternion Networks", section 4.1; weights of ITU-R BT.601.
    """
    fits = x.dim() >= 3 and x.shape[-3] == 3 and x.is_floating_point()
    require(
        fits,
        "rgb_to_quaternion",
        "x",
        "must be floating point of shape (N, 3, H, W)",
        f"{x.dtype} {tuple(x.shape)}",
    )
    red, green, blue = x.unbind(-3)
    grey = RED * red + GREEN * green + BLUE * blue
    return torch.cat([x, grey.unsqueeze(-3)], -3)


@layer_type()
class ImageToQuaternion(nn.Module):
    """(N, 3, H, W) or (N, 1, H, W) images to (N, 4, H, W), one quaternion [R, G, B, grey] a pixel.

    A grey image counts as one with R = G = B. See `rgb_to_quaternion`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Add the fourth channel."""
        return rgb_to_quaternion(x.expand(-1, 3, -1, -1))
