"""Transforms of image batches: normalization, and random augmentation for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Normalize:
    """(x / 255 - mean) / std per channel: uint8 (n, c, h, w) to float32.

    Attributes:
        mean, std: (c) of the training pixels scaled to 0..1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (self.mean, self.std))
        return x.float().mul_(1 / (255 * std)).sub_(mean / std)


@dataclass(frozen=True)
class CropFlip:
    """Random crops of zero-padded images, with random horizontal flips.

    The usual augmentation for CIFAR (He et al. 2016, section 4.2).

    Attributes:
        padding: zeros on each side, in pixels; the largest shift.
        flip: flip left and right with probability 1/2.
    """

    padding: int = 4
    flip: bool = True

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A new (n, c, h, w) tensor of the same dtype; random numbers are drawn on the CPU."""
        n, channels, height, width = x.shape
        shift = torch.randint(0, 2 * self.padding + 1, (2, n, 1), generator=generator)
        rows, columns = shift[0] + torch.arange(height), shift[1] + torch.arange(width)
        if self.flip:
            flipped = torch.rand((n, 1), generator=generator) < 0.5
            columns = torch.where(flipped, columns.flip(1), columns)
        padded = F.pad(x, [self.padding] * 4)
        example = torch.arange(n)[:, None, None, None]
        channel = torch.arange(channels)[:, None, None]
        indices = (example, channel, rows[:, None, :, None], columns[:, None, None, :])
        return padded[tuple(index.to(x.device) for index in indices)]
