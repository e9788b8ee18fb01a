"""Random images of the shape of any other data set: quick checks without files.

Each class has a random prototype; an example is its class's prototype plus unit noise, so that a
network has something to learn.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from sparseq.data.catalog import DataSet, Request, dataset
from sparseq.data.split import Split
from sparseq.seeds import derived_generator

TRAIN_COUNT, TEST_COUNT = 2000, 500
# distance of the prototypes, in units of the noise
CONTRAST = 0.5


@dataset("fake", in_shape=(1, 28, 28), num_classes=10)
def read_fake(request: Request) -> tuple[Split, Split]:
    """2,000 training and 500 test examples of MNIST's shape, always the same ones."""
    return fake_splits((1, 28, 28), 10)


def fake_like(other: DataSet) -> DataSet:
    """The fake data set with the example shape, the classes and the range of another one."""
    return replace(other, read=lambda _: fake_splits(other.in_shape, other.num_classes, other.unit))


def fake_splits(
    in_shape: tuple[int, ...], num_classes: int, unit: bool = False
) -> tuple[Split, Split]:
    """(train, test) of float32 examples of `in_shape` with classes 0..num_classes-1.

    `unit`: a sigmoid brings them into 0..1.
    """
    generator = derived_generator("fake", *in_shape, num_classes)
    count = TRAIN_COUNT + TEST_COUNT
    prototypes = torch.randn((num_classes, *in_shape), generator=generator) * CONTRAST
    y = torch.arange(count) % num_classes
    x = torch.randn((count, *in_shape), generator=generator).add_(prototypes[y])
    whole = Split(x.sigmoid_() if unit else x, y)
    return (whole.take(torch.arange(TRAIN_COUNT)), whole.take(torch.arange(TRAIN_COUNT, count)))
