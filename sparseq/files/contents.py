"""Where every byte of a model file goes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparseq.files.container import read_container, read_index
from sparseq.files.schema import checked_description
from sparseq.files.tensors import NEGATIVE, PLACES, pattern_names

STREAMS = ("row lengths", "gaps")


@dataclass(frozen=True)
class FileRow:
    """One part of a file.

    Attributes:
        name: of the tensor in the state_dict, or "(header)" or "(recipe)".
        bytes: its share of the file.
        encoding: how it is stored.
        dtype: safetensors' name of the stored type, "" outside the tensors.
        shape: as stored.
    """

    name: str
    bytes: int
    encoding: str
    dtype: str
    shape: tuple[int, ...]


def describe_file(path: str | os.PathLike[str]) -> list[FileRow]:
    """The parts of a model file in the order of the file; their bytes add up to its size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a foreign, cut or changed file, or one of a newer format.
    """
    stored, description = read_container(path, "model")
    recipe = checked_description(description, stored, path)
    data = Path(path).read_bytes()
    index, start = read_index(data, path, "describe_file")
    text = len(json.dumps(index.pop("__metadata__"), separators=(",", ":")))
    rows = [
        FileRow("(header)", start - text, "safetensors index, JSON", "", ()),
        FileRow("(recipe)", text, "JSON with checksum", "", ()),
    ]
    return rows + list(_tensor_rows(data[start:], index, _encodings(recipe)))


def _encodings(recipe: Mapping[str, Any]) -> dict[str, str]:
    """How tensors that are not stored as they are lie in the file; streams without their width."""
    found: dict[str, str] = {}
    for path in recipe["patterns"]:
        found.update(zip(pattern_names(path), STREAMS, strict=True))
    for name, entry in recipe["zeros"].items():
        found[name] = f"without the zeros of {' x '.join(map(str, entry['shape']))}"
        found[name + PLACES] = "gaps"
        found[name + NEGATIVE] = "gaps of -0.0"
    return found


def _tensor_rows(
    data: bytes, index: Mapping[str, Any], encodings: Mapping[str, str]
) -> Iterator[FileRow]:
    for name, entry in sorted(index.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        encoding = encodings.get(name, "as is")
        if encoding.startswith(STREAMS):
            encoding += f" in {data[begin]}-bit digits"
        yield FileRow(name, end - begin, encoding, entry["dtype"], tuple(entry["shape"]))
