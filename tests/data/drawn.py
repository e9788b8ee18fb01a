"""Small data sets in their original layouts, drawn for the tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def md5(path: Path) -> str:
    """Of a file."""
    return hashlib.md5(path.read_bytes()).hexdigest()


def jpeg(path: Path, height: int, width: int, shade: int) -> None:
    """An image of one shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), shade, np.uint8)).save(path, "JPEG")
