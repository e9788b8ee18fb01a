"""Dropout of quaternion features."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.layer_types import layer_type


@layer_type()
class QDropout(nn.Module):
    """Drops whole quaternions while training: each is 0 with probability p, else times 1 / (1 - p).

    Features lie in four blocks [r | i | j | k] of dimension 1; the four components of a quaternion,
    which is one channel of one example at one position, are dropped together.

    Args:
        p: probability of a quaternion to be dropped, 0 to 1.
        inplace: work in x itself.

    Raises:
        ValueError: a p outside 0 to 1, features that are no multiple of 4.

    Source: Srivastava et al. 2014, for whole quaternions.
    """

    __constants__: ClassVar[list[str]] = ["p", "inplace"]

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        require(0 <= p <= 1, "QDropout", "p", "must be from 0 to 1", p)
        self.p, self.inplace = p, inplace

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4 C, ...) -> the same shape."""
        fits = x.dim() >= 2 and x.shape[1] % 4 == 0
        require(fits, "QDropout", "x", "must be features (N, 4 C, ...)", tuple(x.shape))
        if not self.training or self.p == 0:
            return x
        parts = x.unflatten(1, (4, -1))
        keep = F.dropout(parts.new_ones(x.shape[0], 1, *parts.shape[2:]), self.p)
        if self.inplace:
            parts.mul_(keep)
            return x
        return (parts * keep).flatten(1, 2)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"p={self.p}, inplace={self.inplace}"
