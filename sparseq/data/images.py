"""Images as bytes: what normalizes a batch of them, and what changes one at random for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Normalize:
    """(x / 255 - mean) / std, channel by channel: uint8 (n, c, h, w) to float32.

    Attributes:
        mean, std: one number per channel, of the training pixels scaled to 0..1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (self.mean, self.std))
        return x.float().mul_(1 / (255 * std)).sub_(mean / std)


@dataclass(frozen=True)
class CropFlip:
    """Every image is moved by up to `padding` pixels in both directions, and mirrored by chance.

    The same as padding with zeros on all sides and cutting out a window of the image's size, as is
    usual for CIFAR (He et al. 2016, section 4.2).

    Attributes:
        padding: largest shift, 0 or more.
        flip: mirror left and right with probability 1/2.
    """

    padding: int = 4
    flip: bool = True

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(n, c, h, w) of any dtype to a new tensor like it; drawn on the CPU for every device."""
        n, channels, height, width = x.shape
        shift = torch.randint(0, 2 * self.padding + 1, (2, n, 1), generator=generator)
        rows, columns = shift[0] + torch.arange(height), shift[1] + torch.arange(width)
        if self.flip:
            mirrored = torch.rand((n, 1), generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = F.pad(x, [self.padding] * 4)
        example = torch.arange(n)[:, None, None, None]
        channel = torch.arange(channels)[:, None, None]
        places = (example, channel, rows[:, None, :, None], columns[:, None, None, :])
        return padded[tuple(place.to(x.device) for place in places)]
