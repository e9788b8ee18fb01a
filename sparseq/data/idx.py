"""Files of the IDX format (MNIST and its relatives), packed (.gz) or not, read without writing."""

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
    """The uint8 tensor stored in `folder/name.gz` or, without that, `folder/name`.

    Args:
        folder: where the file lies; may be read-only.
        name: file name without .gz.
        md5: of the unpacked content.

    Raises:
        FileNotFoundError: neither file is there.
        ValueError: the content is damaged or another than expected.
    """
    packed = folder / f"{name}.gz"
    path = packed if packed.is_file() else folder / name
    content = _content(path)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(
            f"{path} is damaged or another file: md5 {found}, expected {md5}; "
            "remove it and get it again"
        )
    return parse_idx(content, str(path))


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} does not unpack ({error}); remove it and get it again") from error


def parse_idx(content: bytes, source: str) -> Tensor:
    """Bytes of an IDX file -> uint8 tensor; `source` names it in errors.

    Layout: 0, 0, type, rank, then rank big-endian 32-bit sizes, then the entries row by row.
    """
    rank = content[3] if len(content) >= 4 else 0
    if content[:3] != bytes([0, 0, UNSIGNED_BYTE]) or rank == 0 or len(content) < 4 + 4 * rank:
        raise ValueError(f"{source} is no IDX file of bytes")
    start = 4 + 4 * rank
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) - start != math.prod(shape) or not math.prod(shape):
        raise ValueError(f"{source} should hold {shape} entries, but has {len(content) - start}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)
