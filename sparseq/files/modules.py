"""Specs of modules in a file: type name and constructor arguments, from which they are rebuilt.

A model is written as `path -> spec`, one spec for each name of each module:

    {"type": "Linear", "args": {"in_features": 8, "out_features": 4}}   a registered type
    {"custom": "MyNet"}                                                 any other type
    {"same_as": "encoder"}                                              a module shared with a
                                                                        previous path

Arguments equal to the constructor's defaults are omitted; `"training": false` marks a module whose
mode differs from the root's, `"version": 2` one whose state has another version than 1 (that of
its class, by which it reads the states of earlier ones); the root always has its version. How a
type is written and built is declared next to its class (`LayerType.arguments` and
`LayerType.build`).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor, nn

import sparseq.nn  # noqa: F401  (registers the layers that a file may name)
from sparseq.errors import argument_error, require
from sparseq.nn.layer_types import LAYER_TYPES, type_of

# what a constructor raises for the arguments of a malformed file
BUILD_ERRORS = (
    *(TypeError, ValueError, RuntimeError),
    *(LookupError, ArithmeticError, AttributeError, MemoryError),
)
Spec = dict[str, Any]
FIRST_VERSION = 1  # of every module whose class sets no other


def module_specs(model: nn.Module) -> dict[str, Spec]:
    """Path -> spec, for every path of every module."""
    first_paths: dict[int, str] = {}
    specs = {}
    for path, module in model.named_modules(remove_duplicate=False):
        first = first_paths.setdefault(id(module), path)
        specs[path] = module_spec(module) if path == first else {"same_as": first}
        if path == first and module.training != model.training:
            specs[path]["training"] = module.training
        if path == first and (not path or module._version != FIRST_VERSION):
            specs[path]["version"] = module._version
    return specs


def sharing(model: nn.Module, most: int) -> dict[str, str]:
    """Path of each module -> the first path of the same module, for the first `most` paths.

    A model of n modules may have 2^n paths, or be inside of itself.
    """
    first_paths: dict[int, str] = {}
    paths = islice(model.named_modules(remove_duplicate=False), most)
    return {path: first_paths.setdefault(id(module), path) for path, module in paths}


def state_versions(specs: Mapping[str, Spec]) -> dict[str, dict[str, Any]]:
    """Path -> metadata of the state of every module; {} for a file of before they were stored."""
    if "version" not in specs[""]:
        return {}
    sources = {path: specs[spec.get("same_as", path)] for path, spec in specs.items()}
    return {
        path: {"version": source.get("version", FIRST_VERSION)} for path, source in sources.items()
    }


def module_spec(module: nn.Module) -> Spec:
    """The spec of one module, without its children."""
    layer_type = type_of(type(module))
    if layer_type is None:
        return {"custom": type(module).__qualname__}
    name = type(module).__name__
    arguments = {
        argument: json_value(value, f"argument {argument!r} of a {name}")
        for argument, value in layer_type.arguments(module).items()
    }
    return {"type": name, **({"args": arguments} if arguments else {})}


def same_layer(module: nn.Module, spec: Spec) -> bool:
    """Whether a module is of the type and has the arguments of a spec."""
    own = {key: spec[key] for key in ("type", "args") if key in spec}
    return bool(tuples(module_spec(module)) == tuples(own))


def json_value(value: Any, what: str) -> Any:
    """A value as JSON has it: NumPy's numbers and tensors with one entry become plain numbers.

    Raises:
        ValueError: naming `what` cannot be written.
    """
    if isinstance(value, dict):
        return {str(key): json_value(item, what) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item, what) for item in value]
    if isinstance(value, np.generic | np.ndarray | Tensor) and value.ndim == 0:
        value = value.item()
    plain = value is None or isinstance(value, bool | int | float | str)
    require(plain, "save", what, "must be numbers, texts, or lists or dicts of them", repr(value))
    return value


def is_layer(spec: Spec) -> bool:
    """Whether a spec is that of a registered type other than a container."""
    return "type" in spec and not LAYER_TYPES.get(spec["type"]).container


def build_module(path: str, spec: Spec) -> nn.Module:
    """A module from its spec, without children and before its state is loaded."""
    layer_type = LAYER_TYPES.get(spec["type"])
    build = layer_type.build or layer_type.layer
    try:
        return build(**tuples(spec.get("args", {})))
    except BUILD_ERRORS as error:
        rule = f"must be valid arguments of {spec['type']} ({error})"
        raise argument_error("load", f"spec of module {path!r}", rule, spec) from error


def build_tree(specs: Mapping[str, Spec]) -> nn.Module:
    """A model whose modules are all registered; shared modules are built once."""
    built: dict[str, nn.Module] = {}
    for path, spec in specs.items():
        source = spec.get("same_as")
        require(
            source is None or source in built,
            "load",
            f"spec of module {path!r}",
            "must name an earlier module",
            source,
        )
        built[path] = build_module(path, spec) if source is None else built[source]
        parent, _, name = path.rpartition(".")
        if path and specs[parent].get("same_as") is None:
            _add(built[parent], path, name, built[path])
    return built[""]


def _add(parent: nn.Module, path: str, name: str, module: nn.Module) -> None:
    try:
        parent.add_module(name, module)
    except KeyError as error:
        rule = f"must have an unused name ({error})"
        raise argument_error("load", f"spec of module {path!r}", rule, repr(name)) from None


def custom_modules(specs: Mapping[str, Spec]) -> list[str]:
    """`path (class)` of each module of an unregistered class, which only its own code can build."""
    return [
        f"{path or 'model'} ({spec['custom']})" for path, spec in specs.items() if "custom" in spec
    ]


def tuples(value: Any) -> Any:
    """The lists of a JSON value as tuples, as constructors expect them."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
