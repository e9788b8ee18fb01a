"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32x32 color photographs, 50,000 + 10,000.

The files are read in place from ROOT/cifar-10-batches-py and ROOT/cifar-100-python, where
torchvision stores them. Images are kept in memory as uint8; batches are normalized, and training
batches are shifted by up to 4 pixels and flipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparseq.data.catalog import Request, dataset
from sparseq.data.sources import torchvision_set
from sparseq.data.split import Split
from sparseq.data.transforms import CropFlip, Normalize


@dataclass(frozen=True)
class Variant:
    """CIFAR-10 or CIFAR-100: torchvision's class, its folder and files, and the usual constants."""

    name: str
    folder: str
    files: tuple[str, ...]
    normalize: Normalize


BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR10 = Variant(
    "CIFAR10",
    "cifar-10-batches-py",
    (*BATCHES, "test_batch", "batches.meta"),
    Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
)
CIFAR100 = Variant(
    "CIFAR100",
    "cifar-100-python",
    ("train", "test", "meta"),
    Normalize((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
)


@dataset("cifar10", in_shape=(3, 32, 32), num_classes=10)
def read_cifar10(request: Request) -> tuple[Split, Split]:
    """50,000 training and 10,000 test images of ten kinds of animals and vehicles."""
    return read_variant(CIFAR10, request)


@dataset("cifar100", in_shape=(3, 32, 32), num_classes=100)
def read_cifar100(request: Request) -> tuple[Split, Split]:
    """50,000 training and 10,000 test images of 100 classes."""
    return read_variant(CIFAR100, request)


def read_variant(variant: Variant, request: Request) -> tuple[Split, Split]:
    """(train, test) of CIFAR-10 or CIFAR-100; errors as in `load_data`."""
    open_part = torchvision_set(variant.name, variant.folder, variant.files, request)
    parts = (open_part(train=True), open_part(train=False))
    train, test = (
        Split(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets, dtype=torch.int64),
            variant.normalize,
            CropFlip(padding=4),
        )
        for part in parts
    )
    return train, test.unaugmented()
