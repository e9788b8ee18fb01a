"""Examples in two tensors, and their batches in an order determined by (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparseq.errors import require
from sparseq.seeds import derived_generator

Normalization = Callable[[Tensor], Tensor]
Augmentation = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Split:
    """n examples in memory.

    Attributes:
        x: (n, ...) as stored: float32, or uint8 for images, which needs a quarter of the memory.
        y: (n) int64 classes.
        normalize: maps a batch of x to normalized float32; None if x is already normalized.
        augment: augment(batch of x, generator), applied before normalization, but only in passes
            with a seed, that is, in training.
    """

    x: Tensor
    y: Tensor
    normalize: Normalization | None = None
    augment: Augmentation | None = None

    def __post_init__(self) -> None:
        require(
            self.x.dim() >= 1 and self.y.dim() >= 1,
            "Split",
            "x and y",
            "must have a dimension of examples",
            f"{tuple(self.x.shape)} and {tuple(self.y.shape)}",
        )
        require(
            self.x.shape[0] == self.y.shape[0],
            "Split",
            "x and y",
            "must have equally many examples",
            f"{self.x.shape[0]} and {self.y.shape[0]}",
        )

    def __len__(self) -> int:
        return self.x.shape[0]

    def to(self, device: torch.device | str) -> Split:
        """The same examples on a device; self if they are already on it."""
        moved = replace(self, x=self.x.to(device), y=self.y.to(device))
        return self if moved.x is self.x and moved.y is self.y else moved

    def take(self, indices: Tensor) -> Split:
        """The examples at `indices` (int64), in that order."""
        return replace(self, x=self.x[indices], y=self.y[indices])

    def unaugmented(self) -> Split:
        """The same examples, without augmentation."""
        return replace(self, augment=None)

    def steps(self, batch_size: int) -> int:
        """Number of batches in one pass, including the last, shorter one."""
        require(batch_size >= 1, "Split.steps", "batch_size", "must be at least 1", batch_size)
        return -(-len(self) // batch_size)

    def batches(self, batch_size: int, seed: int | None = None, epoch: int = 0) -> Batches:
        """One pass over the examples; the last batch may be shorter.

        Args:
            batch_size: examples per batch, at least 1.
            seed: the order depends on (seed, epoch) alone, the augmentation on (seed, epoch,
                batch) alone; None keeps the stored order and augments nothing.
            epoch: number of the pass.

        Returns:
            An iterable of normalized (x, y), the same in every iteration.
        """
        require(batch_size >= 1, "Split.batches", "batch_size", "must be at least 1", batch_size)
        return Batches(self, batch_size, seed, epoch)


@dataclass(frozen=True)
class Batches:
    """One pass over a split: an iterable of (x, y) with a length."""

    split: Split
    batch_size: int
    seed: int | None = None
    epoch: int = 0

    def __len__(self) -> int:
        return self.split.steps(self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.split.x, self.split.y
        order = None
        if self.seed is not None:
            order = batch_order(len(x), self.seed, self.epoch).to(x.device)
        for number in range(len(self)):
            positions = slice(number * self.batch_size, (number + 1) * self.batch_size)
            rows = positions if order is None else order[positions]
            yield self._transformed(x[rows], number), y[rows]

    def _transformed(self, x: Tensor, number: int) -> Tensor:
        """The augmented and normalized batch."""
        augment, normalize = self.split.augment, self.split.normalize
        if augment is not None and self.seed is not None:
            x = augment(x, derived_generator("augmentation", self.seed, self.epoch, number))
        return x if normalize is None else normalize(x)


def batch_order(count: int, seed: int, epoch: int) -> Tensor:
    """(count) int64 permutation, a function of (seed, epoch) alone."""
    return torch.randperm(count, generator=derived_generator("batches", seed, epoch))


@dataclass(frozen=True)
class DataBundle:
    """A data set ready for an experiment.

    Attributes:
        train, validation: disjoint parts of the training images.
        test: the test images; for the final report only, never for a decision.
        in_shape: shape of one example, (channels, height, width) for images.
        num_classes: classes are 0..num_classes-1.
        name: as passed to `load_data`.
    """

    train: Split
    validation: Split
    test: Split
    in_shape: tuple[int, ...]
    num_classes: int
    name: str

    def to(self, device: torch.device | str) -> DataBundle:
        """The three splits on a device."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )


def stratified_split(
    y: Tensor, fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sorted indices of two stratified random parts of 1 - `fraction` and `fraction` of y.

    The second part has exactly round(fraction n) examples, at least 1 and at most n - 1, and every
    class is represented proportionally to within one example.

    Args:
        y: (n) int64 classes.
        fraction: size of the second part.
        generator: source of randomness, on the CPU.

    Returns:
        The int64 indices of both parts.

    Raises:
        ValueError: fewer than two examples.
    """
    count, n = max(1, min(round(fraction * len(y)), len(y) - 1)), len(y)
    require(n >= 2, "stratified_split", "y", "must have at least two examples", n)
    shuffled = torch.randperm(n, generator=generator)
    by_class = shuffled[torch.argsort(y[shuffled], stable=True)]
    # evenly spaced positions in the order by class
    position = torch.arange(n)
    second = (position + 1) * count // n > position * count // n
    return by_class[~second].sort().values, by_class[second].sort().values
