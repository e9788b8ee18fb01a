"""Dropout of quaternion features."""

from __future__ import annotations

from numbers import Real
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.layer_types import layer_type


@layer_type()
class QDropout(nn.Module):
    """Dropout of whole quaternions: in training each becomes 0 with probability p.

        y = q m / (1 - p),  m = 0 with probability p, else 1

    Features are stored in four blocks [r | i | j | k] along dimension 1; the four components of a
    quaternion, which is one channel of one example at one position, are dropped together.

    Args:
        p: probability that a quaternion is dropped, in [0, 1].
        inplace: overwrite x.

    Raises:
        ValueError: p outside [0, 1], or a number of features not divisible by 4.

    Source: Srivastava et al. 2014, applied to quaternions.
    """

    __constants__: ClassVar[list[str]] = ["p", "inplace"]

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        fits = isinstance(p, Real) and 0 <= p <= 1
        require(fits, "QDropout", "p", "must be in [0, 1]", repr(p))
        self.p, self.inplace = p, inplace

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4 C, ...) -> the same shape."""
        fits = x.dim() >= 2 and x.shape[1] % 4 == 0
        require(fits, "QDropout", "x", "must be features (N, 4 C, ...)", tuple(x.shape))
        require(x.is_floating_point(), "QDropout", "x", "must be floating point", x.dtype)
        if not self.training or self.p == 0:
            return x
        parts = x.unflatten(1, (4, -1))
        keep = F.dropout(parts.new_ones(x.shape[0], 1, *parts.shape[2:]), self.p)
        if self.inplace:
            parts.mul_(keep)
            return x
        y: Tensor = (parts * keep).flatten(1, 2)
        return y

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"p={self.p}, inplace={self.inplace}"
