"""Masks on disk: a container of kind "mask" with one bit per weight.

Each parameter is one uint8 tensor of ceil(n / 8) bytes: its entries in row-major order, the first
in the highest bit (numpy.packbits). The manifest is {"shapes": {name: [...]}}.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparseq.errors import argument_error, require
from sparseq.files.container import read_container, reading, write_container


def write_mask(keep: Mapping[str, Tensor], path: str | PathLike[str], overwrite: bool) -> None:
    """Write bool tensors by name; FileExistsError if the file exists and not `overwrite`."""
    bits = {name: _pack(value) for name, value in keep.items()}
    shapes = {name: list(value.shape) for name, value in keep.items()}
    write_container(path, bits, {"shapes": shapes}, "mask", overwrite)


def read_mask(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Bool tensors by name; ValueError if the file is corrupt, no mask or of a newer format."""
    with reading(path, "Mask.load"):
        bits, manifest = read_container(path, "mask")
        return unpack_mask(bits, manifest, path)


def unpack_mask(
    bits: Mapping[str, Tensor], manifest: Mapping[str, Any], path: object
) -> dict[str, Tensor]:
    """Unpack the bits, checked against the shapes in the manifest."""
    op, argument = "Mask.load", f"file {str(path)!r}"
    shapes = manifest.get("shapes")
    if not isinstance(shapes, dict) or shapes.keys() != bits.keys():
        raise argument_error(op, argument, "must give the shape of every parameter", shapes)
    for name, shape in shapes.items():
        fits = _is_shape(shape) and bits[name].shape == (-(-prod(shape) // 8),)
        fits = fits and bits[name].dtype == torch.uint8
        got = f"{bits[name].dtype} {tuple(bits[name].shape)}"
        require(fits, op, argument, f"must have one bit per entry of {name!r} {shape}", got)
    return {name: _unpack(bits[name], shape) for name, shape in shapes.items()}


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape)


def _pack(keep: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(keep.cpu().numpy().reshape(-1)))


def _unpack(bits: Tensor, shape: list[int]) -> Tensor:
    flat = np.unpackbits(bits.numpy(), count=prod(shape)).astype(bool)
    return torch.from_numpy(flat).reshape(shape)
