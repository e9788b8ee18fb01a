"""What every byte of a model file is used for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparseq.files.container import read_container, read_index, reading
from sparseq.files.schema import checked_manifest
from sparseq.files.tensors import NEGATIVE, POSITIONS, pattern_names

STREAMS = ("row lengths", "gaps")


@dataclass(frozen=True)
class FileRow:
    """One part of a file.

    Attributes:
        name: of the tensor in the state_dict, or "(header)" or "(manifest)".
        bytes: size in the file.
        encoding: how it is stored.
        dtype: safetensors' name of the stored dtype; "" for the header and the manifest.
        shape: of the stored tensor; () for the header and the manifest.
    """

    name: str
    bytes: int
    encoding: str
    dtype: str
    shape: tuple[int, ...]


def describe_file(path: str | os.PathLike[str]) -> list[FileRow]:
    """The parts of a model file in file order; their bytes add up to its size.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not a sparseq model file, truncated, modified, or of a newer format.
    """
    with reading(path, "describe_file"):
        return _rows(path)


def _rows(path: str | os.PathLike[str]) -> list[FileRow]:
    stored, manifest = read_container(path, "model")
    manifest = checked_manifest(manifest, stored, path)
    data = Path(path).read_bytes()
    index, start = read_index(data, path, "describe_file")
    text = len(json.dumps(index.pop("__metadata__"), separators=(",", ":")))
    rows = [
        FileRow("(header)", start - text, "safetensors index, JSON", "", ()),
        FileRow("(manifest)", text, "JSON with checksum", "", ()),
    ]
    return rows + list(_tensor_rows(data[start:], index, _encodings(manifest)))


def _encodings(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Encoding of every tensor that is not stored as is; streams without their digit width."""
    encodings: dict[str, str] = {}
    for path in manifest["patterns"]:
        encodings.update(zip(pattern_names(path), STREAMS, strict=True))
    for name, entry in manifest["zeros"].items():
        encodings[name] = f"without the zeros of {' x '.join(map(str, entry['shape']))}"
        encodings[name + POSITIONS] = "gaps"
        encodings[name + NEGATIVE] = "gaps of -0.0"
    return encodings


def _tensor_rows(
    data: bytes, index: Mapping[str, Any], encodings: Mapping[str, str]
) -> Iterator[FileRow]:
    for name, entry in sorted(index.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        encoding = encodings.get(name, "as is")
        if encoding.startswith(STREAMS):
            encoding += f" in {data[begin]}-bit digits"
        yield FileRow(name, end - begin, encoding, entry["dtype"], tuple(entry["shape"]))
