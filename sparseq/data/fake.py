"""Random images of the shape of any other data set, for quick checks without files.

Each class has a random prototype; an example is the prototype of its class plus unit noise, so that
there is something to learn.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from sparseq.data.catalog import DataSet, Request, dataset
from sparseq.data.split import Split
from sparseq.seeds import derived_generator

TRAIN_COUNT, TEST_COUNT = 2000, 500
# standard deviation of the prototypes, relative to that of the noise
CONTRAST = 0.5


@dataset("fake", in_shape=(1, 28, 28), num_classes=10)
def read_fake(request: Request) -> tuple[Split, Split]:
    """2,000 training and 500 test examples of MNIST's shape, always the same."""
    return fake_splits((1, 28, 28), 10)


def fake_like(other: DataSet) -> DataSet:
    """A fake data set with the example shape, the number of classes and the range of another."""
    return replace(other, read=lambda _: fake_splits(other.in_shape, other.num_classes, other.unit))


def fake_splits(
    in_shape: tuple[int, ...], num_classes: int, unit: bool = False
) -> tuple[Split, Split]:
    """(train, test) of float32 examples of `in_shape` with classes 0..num_classes-1.

    `unit`: map them to 0..1 with a sigmoid.
    """
    generator = derived_generator("fake", *in_shape, num_classes)
    count = TRAIN_COUNT + TEST_COUNT
    prototypes = torch.randn((num_classes, *in_shape), generator=generator) * CONTRAST
    y = torch.arange(count) % num_classes
    x = torch.randn((count, *in_shape), generator=generator).add_(prototypes[y])
    examples = Split(x.sigmoid_() if unit else x, y)
    train, test = torch.arange(count).split([TRAIN_COUNT, TEST_COUNT])
    return examples.take(train), examples.take(test)
