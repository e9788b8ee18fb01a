"""CelebA (Liu et al. 2015): 202,599 faces, cropped and scaled to 64x64, smiling or not.

The files are read in place from ROOT/celeba, where torchvision stores them. Pixels are scaled to
0..1 and not normalized, as they are the targets of an autoencoder. The original validation images
are part of the training images, from which a validation split is drawn as for any data set. Every
load decodes all images, which takes about two minutes on one core, less on several; they are not
cached, as an epoch of training takes far longer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparseq.data.catalog import Request, dataset
from sparseq.data.image_files import read_images
from sparseq.data.sources import torchvision_set
from sparseq.data.split import Split
from sparseq.data.transforms import Normalize

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
# a central crop of an aligned image (178 wide, 218 high), without most of the background
SQUARE, SIZE = 148, (64, 64)
NORMALIZE = Normalize((0.0,) * 3, (1.0,) * 3)


@dataset("celeba", in_shape=(3, *SIZE), num_classes=2, unit=True)
def read_celeba(request: Request) -> tuple[Split, Split]:
    """182,637 training and 19,962 test images; no person is in both."""
    open_part = torchvision_set("CelebA", FOLDER, (IMAGES, *TABLES), request)
    parts = [open_part(split=name, target_type="attr") for name in ("train", "valid", "test")]
    train, validation, test = (split_of(part) for part in parts)
    x, y = torch.cat([train.x, validation.x]), torch.cat([train.y, validation.y])
    return Split(x, y, NORMALIZE), test


def split_of(part: Any) -> Split:
    """The split of one of torchvision's parts; class 1 is smiling."""
    folder = Path(part.root, FOLDER, IMAGES)
    x = read_images([folder / name for name in part.filename], SIZE, central_square)
    return Split(x, part.attr[:, part.attr_names.index(ATTRIBUTE)].long(), NORMALIZE)


def central_square(image: Image) -> Image:
    """The central square of an image, scaled to 64x64."""
    left, top = (image.width - SQUARE) // 2, (image.height - SQUARE) // 2
    return image.resize(SIZE, box=(left, top, left + SQUARE, top + SQUARE))
