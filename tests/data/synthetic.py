"""Parts of small synthetic data sets in their original layouts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """A random uint8 array."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def md5(path: Path) -> str:
    """MD5 of a file."""
    return hashlib.md5(path.read_bytes()).hexdigest()


def jpeg(path: Path, height: int, width: int, shade: int) -> None:
    """Write a JPEG file of one uniform shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), shade, np.uint8)).save(path, "JPEG")
