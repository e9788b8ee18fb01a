"""What the description of a model file must look like; what it means stands in `model_file`.

A file's checksum says that it came whole, not that it makes sense: one written by another program
may hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparseq.errors import require
from sparseq.files.tensors import NEGATIVE, PLACES, pattern_names

KINDS = {
    "modules": dict,
    "patterns": dict,
    "zeros": dict,
    "aliases": dict,
    "frozen": list,
    "training": bool,
    "builder": dict,
}
NODE_KINDS = ("type", "custom", "same_as")


def checked_description(
    found: Mapping[str, Any], stored: Mapping[str, Tensor], path: object
) -> dict[str, Any]:
    """The description of a model file with every entry there, empty ones for those left out.

    Args:
        found: as the file has it.
        stored: the tensors of the file.
        path: of the file, for errors.

    Raises:
        ValueError: naming the file, the entry and what was expected.
    """
    where = f"file {str(path)!r}: recipe"
    recipe = {name: kind() for name, kind in KINDS.items() if kind is not bool} | dict(found)
    for name, kind in KINDS.items():
        _require(
            isinstance(recipe.get(name), kind),
            f"{where} entry {name!r}",
            f"must be a {kind.__name__}",
            recipe.get(name),
        )
    _check_nodes(recipe["modules"], where)
    _check_tensors(recipe, stored, where)
    names = all(isinstance(name, str) for name in recipe["frozen"])
    _require(names, f"{where} entry 'frozen'", "must hold names", recipe["frozen"])
    builder = recipe["builder"]
    known = not builder or (
        isinstance(builder.get("name"), str) and isinstance(builder.get("kwargs"), dict)
    )
    _require(known, f"{where} entry 'builder'", "must hold a name and kwargs", builder)
    return recipe


def _check_nodes(nodes: Mapping[str, Any], where: str) -> None:
    _require("" in nodes, f"{where} entry 'modules'", "must have a root ''", list(nodes))
    seen = {""}
    for path, node in nodes.items():
        argument = f"{where} of module {path!r}"
        _require(isinstance(node, dict), argument, "must be a dict", node)
        kinds = [kind for kind in NODE_KINDS if isinstance(node.get(kind), str)]
        _require(len(kinds) == 1, argument, f"must name one of {', '.join(NODE_KINDS)}", node)
        _require(isinstance(node.get("args", {}), dict), argument, "must have named args", node)
        parent = path.rpartition(".")[0]
        _require(
            parent in seen and not path.endswith("."),
            argument,
            "must have a name and come after the module it is in",
            list(nodes),
        )
        seen.add(path)


def _check_tensors(recipe: Mapping[str, Any], stored: Mapping[str, Tensor], where: str) -> None:
    """Whatever the recipe says of tensors must be of tensors that the file holds."""
    for path, rows in recipe["patterns"].items():
        argument = f"{where} of pattern {path!r}"
        _require(_is_count(rows), argument, "must be its number of rows", rows)
        for name in pattern_names(path):
            _check_stream(name, stored, argument)
    for name, entry in recipe["zeros"].items():
        argument = f"{where} of the zeros of {name!r}"
        sizes = entry.get("shape") if isinstance(entry, dict) else None
        shaped = isinstance(sizes, list) and all(map(_is_count, sizes))
        counted = shaped and _is_count(entry.get("negative", 0))
        _require(counted and name in stored, argument, "must give the shape of a tensor", entry)
        plain = stored[name].dim() == 1 and not stored[name].is_complex()
        _require(plain, argument, "must leave real entries in a row", stored[name])
        for suffix in (PLACES, NEGATIVE) if entry.get("negative") else (PLACES,):
            _check_stream(name + suffix, stored, argument)
    for name, source in recipe["aliases"].items():
        known = isinstance(source, str) and source in stored
        _require(known, f"{where} of alias {name!r}", "must name a tensor of the file", source)


def _check_stream(name: str, stored: Mapping[str, Tensor], argument: str) -> None:
    tensor = stored.get(name)
    bytes_in_a_row = tensor is not None and tensor.dtype == torch.uint8 and tensor.dim() == 1
    stream = bytes_in_a_row and tensor is not None and len(tensor) > 0
    got = None if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
    _require(stream, argument, f"must have a stream of bytes {name!r}", got)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(condition: bool, argument: str, rule: str, got: object) -> None:
    require(condition, "read model", argument, rule, repr(got)[:200])
