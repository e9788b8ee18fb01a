"""Reads image files (JPEG and others) into one uint8 tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def read_images(
    paths: Sequence[Path],
    size: tuple[int, int],
    transform: Callable[[Image], Image] = lambda image: image,
) -> Tensor:
    """(n, 3, height, width) uint8 of n files, in their order; gray images get three channels.

    Args:
        paths: the n image files.
        size: (height, width) that every image must have.
        transform: applied to each image before its size is checked.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not an image, or has another size.
    """
    from PIL import Image, UnidentifiedImageError  # slow to import

    images = np.empty((len(paths), *size, 3), dtype=np.uint8)

    def read(number: int) -> None:
        path = paths[number]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(transform(image.convert("RGB")))
        except FileNotFoundError:
            raise
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} cannot be read as an image ({error})") from error
        if pixels.shape[:2] != size:
            raise ValueError(f"{path} must have (height, width) {size}, got {pixels.shape[:2]}")
        images[number] = pixels

    # decoding releases the interpreter lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(read, range(len(paths))))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
