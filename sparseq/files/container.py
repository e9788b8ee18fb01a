"""The one file container: tensors and a JSON description, checksummed, written atomically.

A container is a safetensors file whose metadata has the single entry "sparseq": a JSON object with
`kind` (what the file holds), `version` (the oldest format that has all it uses), `sha256` and the
description. The checksum is that of the whole file with its own 64 digits replaced by zeros, so no
byte goes unchecked.
Nothing is pickled: reading a file runs no code that comes from it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from sparseq.errors import argument_error, require

FORMAT_VERSION = 2  # the newest that is read
NO_DIGEST = "0" * 64
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)


def write_container(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    description: Mapping[str, Any],
    kind: str,
    overwrite: bool = False,
    version: int = 1,
) -> None:
    """Write tensors and a JSON description as one file.

    Args:
        path: the file; see `write_atomically`.
        tensors: name -> tensor of any device, dtype and strides; each is stored in full.
        description: JSON values, returned unchanged by `read_container`.
        kind: what the file holds ("model", "mask", ...); readers ask for it.
        overwrite: replace an existing file.
        version: of the format; the oldest that has all that is used, so that older releases read
            what they can.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
    """
    _refuse_existing(Path(path), overwrite)
    write_atomically(path, pack_container(tensors, description, kind, version), overwrite)


def pack_container(
    tensors: Mapping[str, Tensor], description: Mapping[str, Any], kind: str, version: int = 1
) -> bytes:
    """The bytes of a container; the same content gives the same bytes."""
    head = {"kind": kind, "version": version, "sha256": NO_DIGEST}
    text = json.dumps({**head, "description": description}, separators=(",", ":"))
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(stored, {"sparseq": text})
    digest = hashlib.sha256(data).hexdigest()
    return data.replace(_digest_field(NO_DIGEST), _digest_field(digest), 1)


def read_container(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the description of a container.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is foreign, cut short, changed, of another kind or a newer format.
    """
    data = Path(path).read_bytes()
    head = check_container(data, path, kind)
    try:
        return safetensors.torch.load(data), head["description"]
    except SafetensorError as error:
        raise argument_error(
            f"read {kind}", f"file {str(path)!r}", "must be valid", error
        ) from None


def check_container(data: bytes, path: object, kind: str) -> dict[str, Any]:
    """The sparseq metadata of a container's bytes, once all of it has been checked."""
    op, argument = f"read {kind}", f"file {str(path)!r}"
    index, start = read_index(data, path, op)
    head = _metadata(index, argument, op)
    known = head["version"] <= FORMAT_VERSION
    rule = f"must be of format version {FORMAT_VERSION} or older (upgrade sparseq)"
    require(known, op, argument, rule, f"version {head['version']}")
    size = start + _data_size(index, argument, op)
    doubt = "is it cut short?" if len(data) < size else "was something appended?"
    require(size == len(data), op, argument, f"must have {size} bytes ({doubt})", len(data))
    _check_digest(data, head["sha256"], argument, op)
    require(head["kind"] == kind, op, argument, f"must hold a {kind}", f"a {head['kind']}")
    return head


def read_index(data: bytes, path: object, op: str) -> tuple[dict[str, Any], int]:
    """The safetensors index (with "__metadata__"), and the offset at which the tensors begin."""
    argument = f"file {str(path)!r}"
    start = 8 + int.from_bytes(data[:8], "little")
    require(data[8:9] == b"{", op, argument, "must be a sparseq file", "another format")
    rule = f"must have a header of {start} bytes (is it cut short?)"
    require(start <= len(data), op, argument, rule, f"{len(data)} bytes in all")
    try:
        index = json.loads(data[8:start])
    except (ValueError, RecursionError) as error:
        raise argument_error(op, argument, "must have a JSON header", error) from None
    return index, start


def _metadata(index: dict[str, Any], argument: str, op: str) -> dict[str, Any]:
    """Take the sparseq metadata out of an index."""
    metadata = index.pop("__metadata__", None)
    ours = isinstance(metadata, dict) and "sparseq" in metadata
    other = "the safetensors file of another program"
    require(ours, op, argument, "must be a sparseq file", other)
    try:
        head = json.loads(metadata["sparseq"])
        kinds = {"version": int, "sha256": str, "kind": str, "description": dict}
        return {name: kind(head[name]) for name, kind in kinds.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise argument_error(op, argument, "must have readable metadata", repr(error)) from None


def _data_size(index: dict[str, Any], argument: str, op: str) -> int:
    """Bytes of all tensors, by the index."""
    try:
        return max([0, *(int(entry["data_offsets"][1]) for entry in index.values())])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise argument_error(op, argument, "must have a readable index", repr(error)) from None


def _digest_field(digest: str) -> bytes:
    """The checksum as it stands in the header: JSON within a JSON string."""
    return f'\\"sha256\\":\\"{digest}\\"'.encode()


def _check_digest(data: bytes, digest: str, argument: str, op: str) -> None:
    sealed = data.replace(_digest_field(digest), _digest_field(NO_DIGEST), 1)
    found = hashlib.sha256(sealed).hexdigest()
    require(
        found == digest, op, argument, f"must have the checksum {digest} (it was changed)", found
    )


def write_atomically(path: str | os.PathLike[str], data: bytes, overwrite: bool = False) -> None:
    """Write a file whole or not at all, and durably.

    The bytes go to a temporary name in the same folder, are flushed to the disk, and take the
    final name in one step; the folder is flushed too.

    Args:
        path: the file; its folder must exist.
        data: the whole content.
        overwrite: replace an existing file; otherwise even one that appears meanwhile stays.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
    """
    target = Path(os.path.realpath(path))
    _refuse_existing(target, overwrite)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_durably(temporary, data)
        _publish(temporary, target, overwrite)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(target.parent)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")


def _write_durably(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _publish(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give the file its final name; a hard link, unlike a rename, refuses an existing one."""
    if not overwrite:
        try:
            os.link(temporary, target)
            return
        except FileExistsError:
            _refuse_existing(target, overwrite)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            _refuse_existing(target, overwrite)
    os.replace(temporary, target)


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
