"""Files in the IDX format (MNIST and similar data sets), gzipped or not, read in place."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

UNSIGNED_BYTE = 8


def read_idx(folder: Path, name: str, md5: str) -> Tensor:
    """The uint8 tensor stored in `folder/name.gz` or, if that is missing, `folder/name`.

    Args:
        folder: folder of the file; may be read-only.
        name: file name without .gz.
        md5: expected MD5 of the decompressed content.

    Raises:
        FileNotFoundError: neither file exists.
        ValueError: the content is damaged or not the expected one.
    """
    packed = folder / f"{name}.gz"
    path = packed if packed.is_file() else folder / name
    content = _content(path)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != md5:
        raise ValueError(
            f"{path} is damaged or not the expected file: MD5 {digest}, expected {md5}; "
            "remove it and download it again"
        )
    return parse_idx(content, str(path))


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be decompressed ({error}); remove it and download it again"
        ) from error


def parse_idx(content: bytes, source: str) -> Tensor:
    """The uint8 tensor in the bytes of an IDX file; `source` names the file in errors.

    Layout: bytes 0, 0, type, rank; rank big-endian 32-bit sizes; the entries in row-major order.
    """
    rank = content[3] if len(content) >= 4 else 0
    if content[:3] != bytes([0, 0, UNSIGNED_BYTE]) or rank == 0 or len(content) < 4 + 4 * rank:
        raise ValueError(f"{source} is not an IDX file of unsigned bytes")
    start = 4 + 4 * rank
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if len(content) - start != math.prod(shape) or not math.prod(shape):
        raise ValueError(f"{source} must have {shape} entries, got {len(content) - start} bytes")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)
