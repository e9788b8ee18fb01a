"""The registry of layers: what the rest of sparseq knows of each, said beside its class.

Conversion, folding, pruning, files, profile and policy "auto" read a layer's entry here and know no
layer by name, so that a new layer is one file: the class, under `@layer_type(...)`. What a class
can do beyond that is told by its methods:

    to_dense(self)                      its dense twin: `sparseq.to_dense` and `profile` use it
    from_dense(cls, module, keep)       the kept weights of the twin: `compress` converts by it
    like(cls, module, generator)        a fresh layer of the twin's sizes: `swap` puts it in
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from sparseq.registry import Registry

NOT_ARGUMENTS = {"self", "device", "dtype", "generator"}

Layer = TypeVar("Layer", bound=type[nn.Module])


def constructor_arguments(module: nn.Module) -> dict[str, Any]:
    """Constructor arguments read from the attributes of the same names, defaults left out."""
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
    """What is known of a class of layers.

    Attributes:
        layer: the class. Subclasses are other layers where their own code may matter: only those
            that are registered are converted and written to files.
        twin: the dense class that it stands in for; what `to_dense` makes of it.
        op: the operator of `sparseq.ops` that computes it, or what tells it of a layer; None: torch
            does.
        fold: (layer, affine map of its outputs) -> its new weight or kept entries; None where it
            cannot hold them. Without it nothing is folded into the layer.
        affine: of a normalization, the affine map that it is in evaluation mode.
        weights: names of its parameters that may be pruned, or what tells them of a layer.
        quaternion: whether its weight is (4, ...), the components r, i, j, k.
        break_even: rows of the table of break-even densities, for weights kept one by one and kept
            whole (see `sparseq.compression.break_even`). Without it policy "auto" leaves it dense.
        container: whether its children are added to it by their names, in files.
        arguments: layer -> the JSON arguments that build it again.
        build: called with these as keywords; by default the class.
    """

    layer: type[nn.Module]
    twin: type[nn.Module] | None = None
    op: str | Callable[[Any], str] | None = None
    fold: Callable[[Any, Any], Tensor | None] | None = None
    affine: Callable[[Any], Any] | None = None
    weights: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    quaternion: bool = False
    break_even: tuple[str, str] | None = None
    container: bool = False
    arguments: Callable[[Any], dict[str, Any]] = constructor_arguments
    build: Callable[..., nn.Module] | None = None

    @property
    def converts(self) -> bool:
        """Whether `compress` makes such layers of their twins."""
        return hasattr(self.layer, "from_dense")

    def op_of(self, layer: nn.Module) -> str | None:
        """Name of the operator that computes a layer."""
        return self.op(layer) if callable(self.op) else self.op

    def weights_of(self, layer: nn.Module) -> tuple[str, ...]:
        """Names of a layer's parameters that may be pruned."""
        return self.weights(layer) if callable(self.weights) else self.weights


LAYER_TYPES: Registry[LayerType] = Registry("module type")


def layer_type(**known: Any) -> Callable[[Layer], Layer]:
    """Decorator that registers a class of layers; the keywords are the fields of `LayerType`."""

    def enter(layer: Layer) -> Layer:
        LAYER_TYPES.register(layer.__name__)(LayerType(layer, **known))
        return layer

    return enter


def type_of(kind: type[nn.Module]) -> LayerType | None:
    """The entry of exactly this class."""
    entry = LAYER_TYPES.find(kind.__name__)
    return entry if entry is not None and entry.layer is kind else None


def nearest_type(kind: type[nn.Module]) -> LayerType | None:
    """The entry of a class or of the nearest one it derives from."""
    entries = (type_of(base) for base in kind.__mro__ if issubclass(base, nn.Module))
    return next(filter(None, entries), None)


def sparse_type(kind: type[nn.Module]) -> LayerType | None:
    """The entry of the layers that hold the kept weights of this dense class."""
    entries = LAYER_TYPES.entries()
    return next((entry for entry in entries if entry.twin is kind and entry.converts), None)


def swap_types() -> dict[type[nn.Module], type[Any]]:
    """Real layer class -> the class that `swap` may put in its place."""
    entries = [entry for entry in LAYER_TYPES.entries() if hasattr(entry.layer, "like")]
    return {entry.twin: entry.layer for entry in entries if entry.twin is not None}


def weight_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """The parameters of a layer's weight, whatever else it has and in which order."""
    entry = nearest_type(type(layer))
    names = entry.weights_of(layer) if entry is not None else ()
    parameters = (layer._parameters.get(name) for name in names)
    return [parameter for parameter in parameters if parameter is not None]
