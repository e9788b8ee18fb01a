"""SVHN (Netzer et al. 2011): 32x32 color house numbers, 73,257 + 26,032, ten digits.

The files train_32x32.mat and test_32x32.mat are read in place from ROOT, where torchvision stores
them. Training images are shifted by up to 4 pixels, but not flipped, as they are digits.
"""

from __future__ import annotations

from typing import Any

import torch

from sparseq.data.catalog import Request, dataset
from sparseq.data.sources import torchvision_set
from sparseq.data.split import Split
from sparseq.data.transforms import CropFlip, Normalize

PARTS = ("train", "test")
NORMALIZE = Normalize((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))


@dataset("svhn", in_shape=(3, 32, 32), num_classes=10)
def read_svhn(request: Request) -> tuple[Split, Split]:
    """73,257 training and 26,032 test images; the extra training images are not used."""
    open_part = torchvision_set("SVHN", "", [f"{part}_32x32.mat" for part in PARTS], request)
    train, test = (split_of(open_part(split=part)) for part in PARTS)
    return train, test.unaugmented()


def split_of(part: Any) -> Split:
    """The split of one of torchvision's parts."""
    x, y = torch.from_numpy(part.data).contiguous(), torch.from_numpy(part.labels)
    return Split(x, y, NORMALIZE, CropFlip(padding=4, flip=False))
