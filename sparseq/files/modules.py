"""How modules are described in a file and built again: type name and constructor arguments.

A model is described as `path -> node`, one node for each name of each module:

    {"type": "Linear", "args": {"in_features": 8, "out_features": 4}}   a registered type
    {"custom": "MyNet"}                                                 any other
    {"same_as": "encoder"}                                              a module met before

Arguments equal to the constructor's defaults are left out; `"training": false` marks a module
whose mode differs from the root's. A new layer type is one `register_module` line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import argument_error, require
from sparseq.formats import CSRPattern
from sparseq.nn.expander.conv import (
    ExpanderConv1d,
    ExpanderConv2d,
    ExpanderQConv1d,
    ExpanderQConv2d,
)
from sparseq.nn.expander.linear import ExpanderLinear, ExpanderQLinear
from sparseq.nn.inference.chain import SparseSequential
from sparseq.nn.quaternion.activation import QModReLU, QuaternionToReal
from sparseq.nn.quaternion.color import ImageToQuaternion
from sparseq.nn.quaternion.conv import QConv1d, QConv2d, QConv3d
from sparseq.nn.quaternion.conv_transpose import (
    QConvTranspose1d,
    QConvTranspose2d,
    QConvTranspose3d,
)
from sparseq.nn.quaternion.dropout import QDropout
from sparseq.nn.quaternion.linear import QLinear
from sparseq.nn.quaternion.norm import QBatchNorm1d, QBatchNorm2d, QBatchNorm3d
from sparseq.nn.quaternion.pool import QMaxPool2d
from sparseq.nn.residual import Residual
from sparseq.nn.sparse.conv import SparseConv1d, SparseConv2d, SparseConv3d, SparseConvNd
from sparseq.nn.sparse.linear import SparseLinear
from sparseq.nn.sparse.quaternion_conv import SparseQConv1d, SparseQConv2d, SparseQConv3d
from sparseq.nn.sparse.quaternion_linear import SparseQLinear
from sparseq.nn.vector_pool import VectorMaxPool2d
from sparseq.registry import Registry

Node = dict[str, Any]

NOT_DESCRIBED = {"self", "device", "dtype", "generator"}
CONTAINERS = (nn.Sequential, SparseSequential, nn.ModuleList, nn.ModuleDict)
PLAIN_LAYERS = (
    *(nn.Linear, nn.Bilinear, nn.Embedding, nn.Identity, nn.Flatten, nn.Unflatten),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardtanh, nn.Hardswish, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad2d, nn.Upsample),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
QUATERNION_LAYERS = (
    *(QLinear, QBatchNorm1d, QBatchNorm2d, QBatchNorm3d, ImageToQuaternion),
    *(QMaxPool2d, QModReLU, QuaternionToReal, QDropout),
)


@dataclass(frozen=True)
class ModuleRecipe:
    """One layer type: its class, a module -> JSON arguments, and arguments -> a module."""

    layer: type[nn.Module]
    arguments: Callable[[Any], dict[str, Any]]
    build: Callable[..., nn.Module]


MODULES: Registry[ModuleRecipe] = Registry("module type")


def constructor_arguments(module: nn.Module) -> dict[str, Any]:
    """Constructor arguments read from the attributes of the same names, defaults left out."""
    found = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in NOT_DESCRIBED or name.startswith("_") or not hasattr(module, name):
            continue
        value = getattr(module, name)
        value = value is not None if name == "bias" else value
        if value != parameter.default:
            found[name] = value
    return found


def register_module(
    layer: type[nn.Module],
    arguments: Callable[[Any], dict[str, Any]] = constructor_arguments,
    build: Callable[..., nn.Module] | None = None,
) -> None:
    """Let files rebuild a layer type without the model's code.

    Args:
        layer: the class; subclasses are registered on their own.
        arguments: module -> JSON constructor arguments; by default read from its attributes.
        build: called with these as keywords; by default the class. State comes later.
    """
    MODULES.register(layer.__name__)(ModuleRecipe(layer, arguments, build or layer))


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
    name = type(module).__name__
    if name not in MODULES.names() or MODULES.get(name).layer is not type(module):
        return {"custom": type(module).__qualname__}
    arguments = MODULES.get(name).arguments(module)
    return {"type": name, **({"args": arguments} if arguments else {})}


def is_layer(node: Node) -> bool:
    """Whether a node alone says how to build the module."""
    return "type" in node and not issubclass(MODULES.get(node["type"]).layer, CONTAINERS)


def build_module(path: str, node: Node) -> nn.Module:
    """A module from its node, without children; its parameters are yet to come."""
    recipe = MODULES.get(node["type"])
    try:
        return recipe.build(**tuples(node.get("args", {})))
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


def _sparse_arguments(module: SparseLinear | SparseQLinear) -> dict[str, Any]:
    return {
        "in_features": module.in_features,
        "out_features": module.out_features,
        **({} if module.bias is not None else {"bias": False}),
    }


def _sparse_q_arguments(module: SparseQLinear) -> dict[str, Any]:
    return {**_sparse_arguments(module), "granularity": module.granularity}


def _build_sparse(in_features: int, out_features: int, bias: bool = True) -> SparseLinear:
    pattern = _empty_pattern(out_features, in_features)
    return SparseLinear(in_features, out_features, pattern, bias=bias)


def _build_sparse_q(
    in_features: int, out_features: int, granularity: str, bias: bool = True
) -> SparseQLinear:
    rows = out_features if granularity == "component" else out_features // 4
    pattern = _empty_pattern(rows, in_features // 4)
    return SparseQLinear(in_features, out_features, pattern, bias=bias, granularity=granularity)


def _sparse_conv_arguments(module: SparseConvNd) -> dict[str, Any]:
    found = constructor_arguments(module)
    return {name: value for name, value in found.items() if name not in ("pattern", "values")}


def _sparse_conv_builder(kind: type[SparseConvNd]) -> Callable[..., SparseConvNd]:
    def build(**arguments: Any) -> SparseConvNd:
        return kind(pattern=_empty_pattern(*kind.pattern_shape(**arguments)), **arguments)

    return build


def _empty_pattern(rows: int, columns: int) -> CSRPattern:
    """A place holder; loading the state brings the real pattern."""
    empty: Tensor = torch.zeros(0, dtype=torch.int32)
    return CSRPattern.from_csr(torch.zeros(rows + 1, dtype=torch.int32), empty, columns)


for _container in CONTAINERS:
    register_module(_container, lambda container: {})
# its parts are added afterwards, by their names
register_module(Residual, lambda block: {}, lambda: Residual(nn.Identity(), nn.Identity()))
EXPANDER_LAYERS = (
    ExpanderLinear,
    ExpanderQLinear,
    ExpanderConv1d,
    ExpanderConv2d,
    ExpanderQConv1d,
    ExpanderQConv2d,
)
for _layer in (*PLAIN_LAYERS, VectorMaxPool2d, *QUATERNION_LAYERS, *EXPANDER_LAYERS):
    register_module(_layer)
for _q_conv in (
    *(QConv1d, QConv2d, QConv3d),
    *(QConvTranspose1d, QConvTranspose2d, QConvTranspose3d),
):
    register_module(_q_conv)
register_module(SparseLinear, _sparse_arguments, _build_sparse)
register_module(SparseQLinear, _sparse_q_arguments, _build_sparse_q)
for _kind in (
    SparseConv1d,
    SparseConv2d,
    SparseConv3d,
    SparseQConv1d,
    SparseQConv2d,
    SparseQConv3d,
):
    register_module(_kind, _sparse_conv_arguments, _sparse_conv_builder(_kind))
