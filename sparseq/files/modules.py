"""How modules are described in a file and built again: type name and constructor arguments.

A model is described as `path -> node`, one node for each name of each module:

    {"type": "Linear", "args": {"in_features": 8, "out_features": 4}}   a registered type
    {"custom": "MyNet"}                                                 any other
    {"same_as": "encoder"}                                              a module met before

Arguments equal to the constructor's defaults are left out; `"training": false` marks a module
whose mode differs from the root's. How a type is written and built stands beside its class
(`LayerType.arguments` and `LayerType.build`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

import sparseq.nn  # noqa: F401  (registers the layers that a file may name)
from sparseq.errors import argument_error, require
from sparseq.nn.layer_types import LAYER_TYPES, type_of

Node = dict[str, Any]


def describe_modules(model: nn.Module) -> dict[str, Node]:
    """Every name of every module, and its node."""
    first: dict[int, str] = {}
    nodes = {}
    for path, module in model.named_modules(remove_duplicate=False):
        known = first.setdefault(id(module), path)
        nodes[path] = {"same_as": known} if known != path else describe_module(module)
        if known == path and module.training != model.training:
            nodes[path]["training"] = module.training
    return nodes


def describe_module(module: nn.Module) -> Node:
    """The node of one module, whatever is below it."""
    known = type_of(type(module))
    if known is None:
        return {"custom": type(module).__qualname__}
    arguments = known.arguments(module)
    return {"type": type(module).__name__, **({"args": arguments} if arguments else {})}


def is_layer(node: Node) -> bool:
    """Whether a node alone says how to build the module."""
    return "type" in node and not LAYER_TYPES.get(node["type"]).container


def build_module(path: str, node: Node) -> nn.Module:
    """A module from its node, without children; its parameters are yet to come."""
    known = LAYER_TYPES.get(node["type"])
    try:
        return (known.build or known.layer)(**tuples(node.get("args", {})))
    except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        rule = f"must be valid arguments of {node['type']} ({error})"
        raise argument_error("load", f"recipe of module {path!r}", rule, node) from None


def build_tree(nodes: Mapping[str, Node]) -> nn.Module:
    """A model whose modules are all registered; shared ones are built once."""
    built: dict[str, nn.Module] = {}
    for path, node in nodes.items():
        source = node.get("same_as")
        require(
            source is None or source in built,
            "load",
            f"recipe of module {path!r}",
            "must name an earlier module",
            source,
        )
        built[path] = build_module(path, node) if source is None else built[source]
        parent, _, name = path.rpartition(".")
        if path and nodes[parent].get("same_as") is None:
            _add(built[parent], path, name, built[path])
    return built[""]


def _add(parent: nn.Module, path: str, name: str, module: nn.Module) -> None:
    try:
        parent.add_module(name, module)
    except KeyError as error:
        rule = f"must have a free name ({error})"
        raise argument_error("load", f"recipe of module {path!r}", rule, repr(name)) from None


def custom_modules(nodes: Mapping[str, Node]) -> list[str]:
    """What only the model's own code can build, as `path (class)`."""
    return [
        f"{path or 'model'} ({node['custom']})" for path, node in nodes.items() if "custom" in node
    ]


def tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
