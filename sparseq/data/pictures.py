"""Image files (JPEG and others) read into one tensor of bytes."""

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


def read_pictures(
    paths: Sequence[Path],
    size: tuple[int, int],
    change: Callable[[Image], Image] = lambda image: image,
) -> Tensor:
    """(n, 3, height, width) uint8 of the files, in their order; grey ones get three channels.

    Args:
        paths: image files.
        size: (height, width) that every image must have.
        change: applied to each image before it is checked and stored.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is no image, or of another size.
    """
    from PIL import Image, UnidentifiedImageError  # slow to import, and only needed here

    pictures = np.empty((len(paths), *size, 3), dtype=np.uint8)

    def read(number: int) -> None:
        path = paths[number]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(change(image.convert("RGB")))
        except FileNotFoundError:
            raise
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} does not open as an image ({error})") from error
        if pixels.shape[:2] != size:
            raise ValueError(f"{path} must be {size} (height, width), got {pixels.shape[:2]}")
        pictures[number] = pixels

    # decoding lets go of the interpreter's lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(read, range(len(paths))))
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
