"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32x32 colored photographs, 50,000 + 10,000.

The files lie where torchvision keeps them, ROOT/cifar-10-batches-py and ROOT/cifar-100-python, and
are read in place. The images stay bytes in memory; batches are normalized, and those for training
moved by up to 4 pixels and mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparseq.data.catalog import Request, dataset
from sparseq.data.images import CropFlip, Normalize
from sparseq.data.sources import torchvision_set
from sparseq.data.split import Split


@dataclass(frozen=True)
class Family:
    """One of the two: torchvision's class, its folder and files, and the usual constants."""

    name: str
    folder: str
    files: tuple[str, ...]
    normalize: Normalize


BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR10 = Family(
    "CIFAR10",
    "cifar-10-batches-py",
    (*BATCHES, "test_batch", "batches.meta"),
    Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
)
CIFAR100 = Family(
    "CIFAR100",
    "cifar-100-python",
    ("train", "test", "meta"),
    Normalize((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
)


@dataset("cifar10", in_shape=(3, 32, 32), num_classes=10)
def read_cifar10(request: Request) -> tuple[Split, Split]:
    """50,000 training and 10,000 test images of ten kinds of animals and vehicles."""
    return read_family(CIFAR10, request)


@dataset("cifar100", in_shape=(3, 32, 32), num_classes=100)
def read_cifar100(request: Request) -> tuple[Split, Split]:
    """50,000 training and 10,000 test images of a hundred classes."""
    return read_family(CIFAR100, request)


def read_family(family: Family, request: Request) -> tuple[Split, Split]:
    """(train, test) of one of the two; see `load_data` for what it raises."""
    open_part = torchvision_set(family.name, family.folder, family.files, request)
    parts = (open_part(train=True), open_part(train=False))
    train, test = (
        Split(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets, dtype=torch.int64),
            family.normalize,
            CropFlip(padding=4),
        )
        for part in parts
    )
    return train, test.unchanged()
