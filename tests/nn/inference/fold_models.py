"""Models with normalizations that may be folded and that must not be folded."""

from __future__ import annotations

from torch import nn


class Residual(nn.Module):
    """A residual block, and all kinds of normalizations that must not be folded."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.before, self.read_twice = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.after_two, self.tied = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.tied_norm, self.shared = (
            nn.BatchNorm2d(8),
            nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)),
        )

    def forward(self, x):
        y = self.bn1(self.conv1(self.before(x))).relu()
        y = self.bn2(self.conv2(y)) + x
        twice = self.read_twice(y)
        y = self.after_two(twice) + twice
        y = self.tied_norm(self.tied(y)) + self.tied.weight.sum()
        return self.shared(self.shared(y))


class Untraceable(nn.Module):
    """Data-dependent control flow around a traceable module and a Sequential."""

    def __init__(self):
        super().__init__()
        self.block = Residual()
        self.list = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))])

    def forward(self, x):
        y = self.block(x) if x.sum() > 0 else self.block(-x)
        for layer in self.list:
            y = layer(y)
        return y
