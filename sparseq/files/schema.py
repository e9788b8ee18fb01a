"""The schema of a model file's manifest; `sparseq.files.model_file` explains the entries.

The checksum proves that a file is complete, not that its manifest is valid: another program could
have written anything into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparseq.errors import argument_error
from sparseq.files.tensors import NEGATIVE, POSITIONS, pattern_names

ENTRY_TYPES: dict[str, type] = {
    "modules": dict,
    "patterns": dict,
    "zeros": dict,
    "aliases": dict,
    "frozen": list,
    "training": bool,
    "builder": dict,
}
SPEC_KINDS = ("type", "custom", "same_as")


def checked_manifest(
    manifest: Mapping[str, Any], stored: Mapping[str, Tensor], path: object
) -> dict[str, Any]:
    """The manifest of a model file, checked and with the omitted entries added as empty ones.

    Args:
        manifest: as read from the file.
        stored: the tensors of the file.
        path: of the file, for error messages.

    Raises:
        ValueError: naming the file, the entry and what was expected.
    """
    where = f"file {str(path)!r}: manifest"
    empty = {name: kind() for name, kind in ENTRY_TYPES.items() if kind is not bool}
    entries = empty | dict(manifest)
    for name, kind in ENTRY_TYPES.items():
        entry = entries.get(name)
        rule = f"must be a {kind.__name__}"
        _require(isinstance(entry, kind), f"{where} entry {name!r}", rule, entry)
    _check_specs(entries["modules"], where)
    _check_tensors(entries, stored, where)
    frozen, builder = entries["frozen"], entries["builder"]
    named = all(isinstance(name, str) for name in frozen)
    _require(named, f"{where} entry 'frozen'", "must contain names", frozen)
    callable_by_name = not builder or (
        isinstance(builder.get("name"), str) and isinstance(builder.get("kwargs"), dict)
    )
    _require(callable_by_name, f"{where} entry 'builder'", "must have a name and kwargs", builder)
    return entries


def _check_specs(specs: Mapping[str, Any], where: str) -> None:
    _require("" in specs, f"{where} entry 'modules'", "must have a root ''", list(specs))
    previous = {""}
    for path, spec in specs.items():
        argument = f"{where}, spec of module {path!r}"
        _require(isinstance(spec, dict), argument, "must be a dict", spec)
        kinds = [kind for kind in SPEC_KINDS if isinstance(spec.get(kind), str)]
        _require(len(kinds) == 1, argument, f"must name one of {', '.join(SPEC_KINDS)}", spec)
        _require(isinstance(spec.get("args", {}), dict), argument, "must have named args", spec)
        mode = spec.get("training", False)
        _require(isinstance(mode, bool), argument, "must have a bool as training", mode)
        version = spec.get("version")
        is_version = version is None or _is_count(version)
        _require(is_version, argument, "must have a number as version", version)
        parent = path.rpartition(".")[0]
        _require(
            parent in previous and not path.endswith("."),
            argument,
            "must have a name and follow its parent module",
            path,
        )
        previous.add(path)


def _check_tensors(manifest: Mapping[str, Any], stored: Mapping[str, Tensor], where: str) -> None:
    """Check that the entries about tensors match the tensors of the file."""
    for path, rows in manifest["patterns"].items():
        argument = f"{where}, pattern {path!r}"
        _require(_is_count(rows), argument, "must be its number of rows", rows)
        for name in pattern_names(path):
            _check_stream(name, stored, argument)
    for name, entry in manifest["zeros"].items():
        argument = f"{where}, zeros of {name!r}"
        sizes = entry.get("shape") if isinstance(entry, dict) else None
        valid_shape = isinstance(sizes, list) and all(map(_is_count, sizes))
        valid = valid_shape and _is_count(entry.get("negative", 0)) and name in stored
        _require(valid, argument, "must give the shape of a tensor", entry)
        is_vector = stored[name].dim() == 1 and not stored[name].is_complex()
        _require(is_vector, argument, "must belong to a real vector", stored[name])
        for suffix in (POSITIONS, NEGATIVE) if entry.get("negative") else (POSITIONS,):
            _check_stream(name + suffix, stored, argument)
    for name, source in manifest["aliases"].items():
        exists = isinstance(source, str) and source in stored
        _require(exists, f"{where}, alias {name!r}", "must name a tensor of the file", source)


def _check_stream(name: str, stored: Mapping[str, Tensor], argument: str) -> None:
    tensor = stored.get(name)
    got = None if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
    is_stream = (
        tensor is not None and tensor.dtype == torch.uint8 and tensor.dim() == 1 and len(tensor) > 0
    )
    _require(is_stream, argument, f"must have a byte stream {name!r}", got)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(condition: bool, argument: str, rule: str, got: object) -> None:
    if not condition:  # the text of what came may be long
        raise argument_error("read model", argument, rule, repr(got)[:200])
