"""The registry of layers: what the rest of sparseq knows about each, declared next to its class.

Conversion, folding, pruning, files, `profile` and policy "auto" read a layer's entry here and name
no layer themselves, so that a new layer is one file: the class, decorated by `@layer_type(...)`.
Optional methods of the class make it convertible:

    to_dense(self)                      its dense twin, for `sparseq.to_dense` and `profile`
    from_dense(cls, module, keep)       a layer with the kept weights of its twin, for `compress`
    like(cls, module, generator)        a new layer of the twin's sizes, for `swap`
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.entrance import with_entrance
from sparseq.registry import Registry

NOT_ARGUMENTS = {"self", "device", "dtype", "generator"}

Layer = TypeVar("Layer", bound=type[nn.Module])


def constructor_arguments(module: nn.Module) -> dict[str, Any]:
    """Constructor arguments read from the attributes of the same names; defaults are omitted."""
    arguments = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in NOT_ARGUMENTS or name.startswith("_") or not hasattr(module, name):
            continue
        value = getattr(module, name)
        value = value is not None if name == "bias" else value
        if value != parameter.default:
            arguments[name] = value
    return arguments


@dataclass(frozen=True)
class LayerType:
    """The entry of a class of layers.

    Attributes:
        layer: the class. A subclass is another type, since its own code may change the function: it
            is converted and written to files only if it is registered itself.
        twin: the dense class that it replaces, and to which `to_dense` converts it.
        op: name of the operator of `sparseq.ops` that computes it, or layer -> name; None if torch
            computes it.
        fold: (layer, affine map of its outputs) -> its new weight or kept entries, or None if they
            cannot represent the result. Without `fold` nothing is folded into the layer.
        affine: for a normalization, layer -> the affine map that it computes in evaluation mode.
        weights: names of its parameters that may be pruned, or layer -> names.
        quaternion: whether its weight is (4, ...), the components r, i, j, k.
        inputs_first: whether the first dimension of its weight (or of a component) is the inputs.
        break_even: rows of the table of break-even densities, for unstructured masks and for masks
            that keep whole quaternions or kernels (see `sparseq.compression.break_even`). Without
            them policy "auto" keeps its twin dense.
        container: whether files list its children and `load` adds them by name.
        arguments: layer -> JSON arguments from which it can be built.
        build: called with these arguments as keywords; by default the class.
    """

    layer: type[nn.Module]
    twin: type[nn.Module] | None = None
    op: str | Callable[[Any], str] | None = None
    fold: Callable[[Any, Any], Tensor | None] | None = None
    affine: Callable[[Any], Any] | None = None
    weights: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    quaternion: bool = False
    inputs_first: bool = False
    break_even: tuple[str, str] | None = None
    container: bool = False
    arguments: Callable[[Any], dict[str, Any]] = constructor_arguments
    build: Callable[..., nn.Module] | None = None

    @property
    def converts(self) -> bool:
        """Whether `compress` converts the twin to this layer."""
        return hasattr(self.layer, "from_dense")

    def op_of(self, layer: nn.Module) -> str | None:
        """Name of the operator that computes a layer."""
        return self.op(layer) if callable(self.op) else self.op

    def weights_of(self, layer: nn.Module) -> tuple[str, ...]:
        """Names of a layer's parameters that may be pruned."""
        return self.weights(layer) if callable(self.weights) else self.weights


LAYER_TYPES: Registry[LayerType] = Registry("module type")

# module of another library -> module of sparseq that registers its layers, imported when one of
# its classes is first seen: nothing of these libraries is needed otherwise
FOREIGN = {"transformers.pytorch_utils": "sparseq.nn.sparse.conv1d"}


def layer_type(**fields: Any) -> Callable[[Layer], Layer]:
    """Class decorator that registers a layer; the keywords are the fields of `LayerType`."""

    def register(layer: Layer) -> Layer:
        if not fields.get("container") and not layer.__module__.startswith("torch."):
            layer.forward = with_entrance(layer.forward)
            layer.itself = property(lambda layer: layer)  # type: ignore[attr-defined]
        LAYER_TYPES.register(layer.__name__)(LayerType(layer, **fields))
        return layer

    return register


def type_of(layer_class: type[nn.Module]) -> LayerType | None:
    """The entry of exactly this class; None if it is not registered."""
    if layer_class.__module__ in FOREIGN:
        importlib.import_module(FOREIGN[layer_class.__module__])
    entry = LAYER_TYPES.find(layer_class.__name__)
    return entry if entry is not None and entry.layer is layer_class else None


def nearest_type(layer_class: type[nn.Module]) -> LayerType | None:
    """The entry of a class or of its nearest registered base class."""
    entries = (type_of(base) for base in layer_class.__mro__ if issubclass(base, nn.Module))
    return next(filter(None, entries), None)


def sparse_type(dense_class: type[nn.Module]) -> LayerType | None:
    """The entry of the sparse layer to which `compress` converts this dense class."""
    if type_of(dense_class) is None:
        return None
    entries = LAYER_TYPES.entries()
    return next((entry for entry in entries if entry.twin is dense_class and entry.converts), None)


def swap_types() -> dict[type[nn.Module], type[Any]]:
    """Real layer class -> the class by which `swap` can replace it."""
    entries = [entry for entry in LAYER_TYPES.entries() if hasattr(entry.layer, "like")]
    return {entry.twin: entry.layer for entry in entries if entry.twin is not None}


def check_module(op: str, model: Any) -> None:
    """ValueError unless a model is a module."""
    is_module = isinstance(model, nn.Module)
    require(is_module, op, "model", "must be a torch.nn.Module", type(model).__name__)


def weight_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """The prunable parameters of a layer, in the order of `LayerType.weights`."""
    entry = nearest_type(type(layer))
    names = entry.weights_of(layer) if entry is not None else ()
    parameters = (layer._parameters.get(name) for name in names)
    return [parameter for parameter in parameters if parameter is not None]
