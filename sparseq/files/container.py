"""The one file container: tensors and a JSON manifest, checksummed, written atomically.

A container is a safetensors file whose metadata has the single entry "sparseq": a JSON object with
`kind` (such as "model"), `version` (the oldest format that supports everything the file uses),
`sha256` and `description` (the manifest). The checksum covers the complete file with its own 64
digits replaced by zeros, so that every byte is checked. Nothing is pickled: reading a file never
runs code from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from sparseq.errors import argument_error, require
from sparseq.files.atomic import refuse_existing, write_atomically

FORMAT_VERSION = 2  # the newest that can be read
NO_DIGEST = "0" * 64


def write_container(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    manifest: Mapping[str, Any],
    kind: str,
    overwrite: bool = False,
    version: int = 1,
) -> None:
    """Write tensors and a JSON manifest as one file.

    Args:
        path: the file; see `write_atomically`.
        tensors: name -> tensor of any device, dtype and strides; each is stored in full.
        manifest: JSON values, returned unchanged by `read_container`.
        kind: type of the content ("model", "mask", ...), checked by `read_container`.
        overwrite: replace an existing file.
        version: the oldest version of the format that supports everything used, so that older
            releases can read as many files as possible.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
    """
    refuse_existing(Path(path), overwrite)
    write_atomically(path, pack_container(tensors, manifest, kind, version), overwrite)


def pack_container(
    tensors: Mapping[str, Tensor], manifest: Mapping[str, Any], kind: str, version: int = 1
) -> bytes:
    """The bytes of a container; the same content gives the same bytes."""
    metadata = {"kind": kind, "version": version, "sha256": NO_DIGEST, "description": manifest}
    text = json.dumps(metadata, separators=(",", ":"))
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(stored, {"sparseq": text})
    digest = hashlib.sha256(data).hexdigest()
    return data.replace(_digest_field(NO_DIGEST), _digest_field(digest), 1)


@contextmanager
def reading(path: str | os.PathLike[str], op: str) -> Iterator[None]:
    """Makes every error of the block but an OSError a ValueError that names the file.

    What is in a file reaches the constructors of layers, whose errors are of any kind.
    """
    name = repr(str(path))
    try:
        yield
    except OSError:
        raise
    except ValueError as error:
        if name in str(error):
            raise
        raise ValueError(f"{error} (in file {name})") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise argument_error(op, f"file {name}", "must be readable", reason) from error


def read_container(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the manifest of a container.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not a sparseq file, truncated, modified, of another kind or of a newer format.
    """
    with reading(path, f"read {kind}"):
        data = Path(path).read_bytes()
        metadata = check_container(data, path, kind)
        try:
            return safetensors.torch.load(data), metadata["description"]
        except SafetensorError as error:
            raise argument_error(
                f"read {kind}", f"file {str(path)!r}", "must be valid", error
            ) from None


def check_container(data: bytes, path: object, kind: str) -> dict[str, Any]:
    """The sparseq metadata of a container's bytes, after checking every byte."""
    op, argument = f"read {kind}", f"file {str(path)!r}"
    index, start = read_index(data, path, op)
    metadata = _pop_metadata(index, argument, op)
    version, actual_kind = metadata["version"], metadata["kind"]
    rule = f"must be of format version {FORMAT_VERSION} or older (upgrade sparseq)"
    require(version <= FORMAT_VERSION, op, argument, rule, f"version {version}")
    size = start + _data_size(index, argument, op)
    hint = "is it truncated?" if len(data) < size else "was something appended?"
    require(size == len(data), op, argument, f"must have {size} bytes ({hint})", len(data))
    _check_digest(data, metadata["sha256"], argument, op)
    require(actual_kind == kind, op, argument, f"must contain a {kind}", f"a {actual_kind}")
    return metadata


def read_index(data: bytes, path: object, op: str) -> tuple[dict[str, Any], int]:
    """The safetensors index (with "__metadata__"), and the offset at which the tensors begin."""
    argument = f"file {str(path)!r}"
    start = 8 + int.from_bytes(data[:8], "little")
    require(data[8:9] == b"{", op, argument, "must be a sparseq file", "another format")
    rule = f"must have a header of {start} bytes (is it truncated?)"
    require(start <= len(data), op, argument, rule, f"{len(data)} bytes in total")
    try:
        index = json.loads(data[8:start])
    except (ValueError, RecursionError) as error:
        raise argument_error(op, argument, "must have a JSON header", error) from None
    return index, start


def _pop_metadata(index: dict[str, Any], argument: str, op: str) -> dict[str, Any]:
    """Remove the sparseq metadata from an index and return it."""
    metadata = index.pop("__metadata__", None)
    if not isinstance(metadata, dict) or "sparseq" not in metadata:
        got = "the safetensors file of another program"
        raise argument_error(op, argument, "must be a sparseq file", got)
    try:
        entries = json.loads(metadata["sparseq"])
        types = {"version": int, "sha256": str, "kind": str, "description": dict}
        return {name: entry_type(entries[name]) for name, entry_type in types.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise argument_error(op, argument, "must have readable metadata", repr(error)) from None


def _data_size(index: dict[str, Any], argument: str, op: str) -> int:
    """Bytes of all tensors, according to the index."""
    try:
        return max([0, *(int(entry["data_offsets"][1]) for entry in index.values())])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise argument_error(op, argument, "must have a readable index", repr(error)) from None


def _digest_field(digest: str) -> bytes:
    """The checksum as written in the header: JSON inside a JSON string."""
    return f'\\"sha256\\":\\"{digest}\\"'.encode()


def _check_digest(data: bytes, digest: str, argument: str, op: str) -> None:
    sealed = data.replace(_digest_field(digest), _digest_field(NO_DIGEST), 1)
    computed = hashlib.sha256(sealed).hexdigest()
    rule = f"must have the checksum {digest} (it was modified)"
    require(computed == digest, op, argument, rule, computed)
