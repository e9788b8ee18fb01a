"""CelebA (Liu et al. 2015): 202,599 faces, cut and scaled to 64x64, with or without a smile.

The files lie where torchvision keeps them, in ROOT/celeba, and are read in place. Pixels are scaled
to 0..1 and not normalized further: they are what an autoencoder gives back. The set's own
validation part counts as training images; a validation part is drawn from these as for any set.
Every load decodes all images, some two minutes on one core, less on several: nothing is kept beside
them, as an epoch of training takes far longer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparseq.data.catalog import Request, dataset
from sparseq.data.images import Normalize
from sparseq.data.pictures import read_pictures
from sparseq.data.sources import torchvision_set
from sparseq.data.split import Split

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "celeba"
IMAGES = "img_align_celeba"
TABLES = (
    "list_attr_celeba.txt",
    "identity_CelebA.txt",
    "list_bbox_celeba.txt",
    "list_landmarks_align_celeba.txt",
    "list_eval_partition.txt",
)
ATTRIBUTE = "Smiling"
# the middle of an aligned image, 178 wide and 218 high, without most of the background
SQUARE, SIZE = 148, (64, 64)
NORMALIZE = Normalize((0.0,) * 3, (1.0,) * 3)


@dataset("celeba", in_shape=(3, *SIZE), num_classes=2, unit=True)
def read_celeba(request: Request) -> tuple[Split, Split]:
    """182,637 training and 19,962 test images; nobody is in both parts."""
    open_part = torchvision_set("CelebA", FOLDER, (IMAGES, *TABLES), request)
    parts = [open_part(split=name, target_type="attr") for name in ("train", "valid", "test")]
    train, validation, test = (split_of(part) for part in parts)
    both = Split(torch.cat([train.x, validation.x]), torch.cat([train.y, validation.y]), NORMALIZE)
    return both, test


def split_of(part: Any) -> Split:
    """One part as torchvision lists it; class 1 smiles."""
    folder = Path(part.root, FOLDER, IMAGES)
    x = read_pictures([folder / name for name in part.filename], SIZE, middle)
    return Split(x, part.attr[:, part.attr_names.index(ATTRIBUTE)].long(), NORMALIZE)


def middle(image: Image) -> Image:
    """The square in the middle of an image, scaled to 64x64."""
    left, top = (image.width - SQUARE) // 2, (image.height - SQUARE) // 2
    return image.resize(SIZE, box=(left, top, left + SQUARE, top + SQUARE))
