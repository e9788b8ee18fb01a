"""The seam between a layer and the way it holds the kept entries of its weight.

    layer = layout x store

The layout (`sparseq.nn.sparse.patterned.PatternedLayer`) says where the entries are, the store what
they are: floats, codes into a codebook, integers with a scale. Whoever needs floats asks the store.
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
    """How a layer holds the kept entries of its weight; a new store is a subclass in one file.

    A store is a value without tensors: a frozen dataclass of its settings. It enters parameters and
    buffers into the layer, which are then moved, copied and saved as all of the layer's are. The
    entries are (nnz) numbers, or (nnz, *shape) where an entry is a quaternion or a block.

    Attributes:
        name: the store's name in a file, a key of STORES.
        tensors: names of what it enters, in the layer and in its state_dict; the first of them is
            a parameter.
    """

    name: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]]

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """The tensors that hold these entries, by name; those that are trained are parameters.

        Args:
            values: (nnz, ...) floating point, not to be kept.
        """
        raise NotImplementedError

    def values(self, layer: Any) -> Tensor:
        """(nnz, ...) the entries as floats, differentiable in what is trained."""
        raise NotImplementedError

    def check(self, op: str, stored: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
        """ValueError, naming `op`, unless these tensors hold entries of that shape."""
        raise NotImplementedError

    def product(
        self, layer: Any, multiply: Callable[..., Tensor], x: Tensor, *settings: Any
    ) -> Tensor:
        """multiply(x, entries, pattern, bias, *settings), an operator of `sparseq.ops`.

        A store that has a fused kernel for an operator calls that instead.
        """
        return multiply(x, self.values(layer), layer._pattern_tensors(), layer.bias, *settings)

    def enter(self, layer: nn.Module, values: Tensor) -> None:
        """Give a layer the tensors that hold these entries."""
        for name, tensor in self.encode(values).items():
            if isinstance(tensor, nn.Parameter):
                layer.register_parameter(name, tensor)
            else:
                layer.register_buffer(name, tensor)

    def leave(self, layer: nn.Module) -> None:
        """Take the tensors out of a layer."""
        for name in self.tensors:
            delattr(layer, name)

    @torch.no_grad()
    def write_(self, layer: nn.Module, values: Tensor) -> None:
        """Overwrite the entries, whose number stays; a store may round them."""
        for name, tensor in self.encode(values).items():
            getattr(layer, name).copy_(tensor)

    def resize_(self, layer: nn.Module, stored: Mapping[str, Tensor]) -> None:
        """Make room for tensors of other sizes; each stays the same object, its contents do not."""
        for name in self.tensors:
            held = getattr(layer, name)
            if held.shape != stored[name].shape:
                # an optimizer that holds the parameter goes on training it
                held.data = held.new_empty(stored[name].shape)
                held.grad = None

    def settings(self) -> dict[str, Any]:
        """Arguments, as JSON, that make an equal store."""
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """The store as a file names it; `store_from_json` is the inverse."""
        return {"name": self.name, **self.settings()}


STORES: Registry[type[ValueStore]] = Registry("value store")


def store_from_json(entry: Mapping[str, Any]) -> ValueStore:
    """The store that a file names; ValueError for an unknown one or other settings than it has."""
    kind = STORES.get(str(entry.get("name")))
    settings = {name: value for name, value in entry.items() if name != "name"}
    known = {field.name for field in dataclasses.fields(kind)} if settings else set()  # type: ignore[arg-type]
    rule = f"must have settings of {kind.name!r}: {', '.join(sorted(known)) or 'none'}"
    require(settings.keys() <= known, "load", "value store", rule, sorted(settings))
    return kind(**settings)
