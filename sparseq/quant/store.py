"""Value stores: how a layer represents the kept entries of its weight.

    layer = layout x store

The layout (`sparseq.nn.sparse.patterned.PatternedLayer`) knows the positions of the entries, the
store their representation: floats, codes into a codebook, integers with a scale. Code that needs
floats asks the store for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.registry import Registry


class ValueStore:
    """Representation of the kept entries of a layer's weight; a new one is a subclass in one file.

    A store is a frozen dataclass of its settings and has no tensors itself: it registers parameters
    and buffers in the layer, which are then moved, copied and saved like all of the layer's. The
    entries are (nnz) numbers, or (nnz, *shape) if an entry is a quaternion or a block.

    Attributes:
        name: the store's name in files, a key of STORES.
        tensors: names of the tensors that it registers, in the layer and in its state_dict; the
            first one is a parameter.
    """

    name: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]]

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """The tensors that represent these entries, by name; trained ones are parameters.

        Args:
            values: (nnz, ...) floating point entries, in CSR order.
        """
        raise NotImplementedError

    def values(self, layer: Any) -> Tensor:
        """(nnz, ...) the entries as floats, differentiable with respect to the trained tensors."""
        raise NotImplementedError

    def check(self, op: str, stored: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
        """ValueError unless these tensors represent entries of a shape.

        Args:
            op: operation named in the error.
            stored: name -> tensor, for each of `tensors`.
            shape: (nnz, ...).
        """
        raise NotImplementedError

    def product(
        self, layer: Any, multiply: Callable[..., Tensor], x: Tensor, *settings: Any
    ) -> Tensor:
        """multiply(x, entries, pattern, bias, *settings), where multiply is from `sparseq.ops`.

        A store with a fused kernel for this operator calls that kernel instead.
        """
        return multiply(x, self.values(layer), layer._pattern_tensors(), layer.bias, *settings)

    def register(self, layer: nn.Module, values: Tensor) -> None:
        """Register the tensors that represent these entries in a layer."""
        for name, tensor in self.encode(values).items():
            if isinstance(tensor, nn.Parameter):
                layer.register_parameter(name, tensor)
            else:
                layer.register_buffer(name, tensor)

    def unregister(self, layer: nn.Module) -> None:
        """Remove the tensors from a layer."""
        for name in self.tensors:
            delattr(layer, name)

    @torch.no_grad()
    def write_(self, layer: nn.Module, values: Tensor) -> None:
        """Overwrite the entries with as many new ones, in place; a store may round them."""
        for name, tensor in self.encode(values).items():
            getattr(layer, name).copy_(tensor)

    def resize_(self, layer: nn.Module, stored: Mapping[str, Tensor]) -> None:
        """Resize the layer's tensors to those of `stored`; their contents become undefined."""
        for name in self.tensors:
            tensor = getattr(layer, name)
            if tensor.shape != stored[name].shape:
                # the same object, so that an optimizer continues to train it
                tensor.data = tensor.new_empty(stored[name].shape)
                tensor.grad = None

    def settings(self) -> dict[str, Any]:
        """Constructor arguments of an equal store, as JSON values."""
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}

    def to_json(self) -> dict[str, Any]:
        """The store as written to a file; `store_from_json` is the inverse."""
        return {"name": self.name, **self.settings()}


STORES: Registry[type[ValueStore]] = Registry("value store")


def store_from_json(entry: Mapping[str, Any]) -> ValueStore:
    """The store that a file describes; ValueError for an unknown name or unknown settings."""
    store_type = STORES.get(str(entry.get("name")))
    settings = {name: value for name, value in entry.items() if name != "name"}
    names: set[str] = set()
    if dataclasses.is_dataclass(store_type):
        names = {field.name for field in dataclasses.fields(store_type)}
    rule = f"must have settings of {store_type.name!r}: {', '.join(sorted(names)) or 'none'}"
    require(settings.keys() <= names, "load", "value store", rule, sorted(settings))
    return store_type(**settings)
