"""Color images as quaternions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.layer_types import layer_type
from sparseq.ops._inputs import takes_dense_tensors

# weights of the luma of ITU-R BT.601
RED, GREEN, BLUE = 0.2989, 0.587, 0.114


@takes_dense_tensors
def rgb_to_quaternion(x: Tensor) -> Tensor:
    """Images as one quaternion per pixel, R + G i + B j + gray k.

        gray = 0.2989 R + 0.587 G + 0.114 B, whether or not the values are normalized

    Args:
        x: (..., 3, H, W), floating point.

    Returns:
        (..., 4, H, W), the channels R, G, B and gray, in the dtype of x.

    Raises:
        ValueError: another number of channels than three, or an integer dtype.

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
    gray = RED * red + GREEN * green + BLUE * blue
    return torch.cat([x, gray.unsqueeze(-3)], -3)


@layer_type()
class ImageToQuaternion(nn.Module):
    """(N, 3, H, W) or (N, 1, H, W) -> (N, 4, H, W), one quaternion [R, G, B, gray] per pixel.

    A gray image is treated as one with R = G = B. See `rgb_to_quaternion`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) or (N, 1, H, W) -> (N, 4, H, W)."""
        fits = x.dim() == 4 and x.shape[1] in (1, 3)
        rule = "must have shape (N, 3, H, W) or (N, 1, H, W)"
        require(fits, "ImageToQuaternion", "x", rule, tuple(x.shape))
        return rgb_to_quaternion(x.expand(-1, 3, -1, -1))
