"""Base class of the sparse layers: a pattern, a store of kept entries, loading."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.errors import argument_error, require
from sparseq.formats import CSRPattern, check_mask
from sparseq.nn.layer_types import weight_parameters
from sparseq.nn.sparse.pattern_holder import PatternHolder, on_device
from sparseq.nn.twin_weight import TwinWeight
from sparseq.ops._inputs import check_dense
from sparseq.quant import FLOAT, ValueStore, store_from_json


class PatternedLayer(PatternHolder):
    """A layer with the kept entries of a weight: a CSR pattern and a value store.

    The entries of the state_dict are the store's tensors (`values` of the float store), `row_ptr`,
    `col_idx` (int32) and `bias`; the transposed pattern is rebuilt on load. Loading a state_dict
    with another pattern replaces the layer's, after all checks; from that of the dense twin
    (`weight`) the kept entries are loaded. The parameters remain the same objects, but an
    optimizer's state for them is valid only if the number of entries does not change.

    Attributes:
        store: representation of the kept entries, see `sparseq.quant.ValueStore`.
    """

    store: ValueStore = FLOAT

    __constants__: ClassVar[list[str]] = ["in_features", "out_features"]
    in_features: int
    out_features: int
    bias: nn.Parameter | None

    def kept_values(self) -> Tensor:
        """(nnz, ...) the kept entries as floats in CSR order, differentiable."""
        return self.store.values(self)

    def _entries_device(self) -> torch.device:
        device: torch.device = getattr(self, self.store.tensors[0]).device
        return device

    def use_store(self, store: ValueStore) -> None:
        """Convert the kept entries to another store, in place; it may round them."""
        values = self.kept_values().detach()
        is_trained = all(parameter.requires_grad for parameter in weight_parameters(self))
        self.store.unregister(self)
        self.store = store
        bias = self._parameters.pop("bias")
        store.register(self, values)
        self.register_parameter("bias", bias)  # after the weight, as in every layer
        for parameter in weight_parameters(self):
            parameter.requires_grad_(is_trained)

    def dense_weight(self) -> Tensor:
        """The dense twin's weight, zero at dropped entries; differentiable in the kept ones."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """`dense_weight()` for code that reads the weight of the dense twin; not to be written.

        It is computed at every access, and no parameter; see `sparseq.nn.twin_weight`.
        """
        weight: Tensor = self.dense_weight().as_subclass(TwinWeight)
        return weight

    def _matrix(self, weight: Tensor) -> Tensor:
        """The dense twin's weight as a matrix (m, k, ...) of entries, checked."""
        raise NotImplementedError

    def _check_weight(self, weight: Tensor, shape: tuple[int, ...]) -> None:
        """ValueError unless a dense twin's weight has this shape."""
        rule = f"must have shape {shape}"
        require(weight.shape == shape, type(self).__name__, "weight", rule, tuple(weight.shape))

    def _entry_shape(self) -> tuple[int, ...]:
        """Shape of one kept entry."""
        return ()

    def _outputs(self) -> int:
        """Size of the bias."""
        return self.out_features

    @torch.no_grad()
    def _draw_by_inputs(self, generator: torch.Generator | None) -> None:
        """Draw values and bias from U(-b, b), b = 1 / sqrt(kept inputs of the row)."""
        values = self.kept_values()
        if values.is_meta:
            return
        bound = self.pattern.counts().clamp(min=1).to(values.dtype).rsqrt()
        self.store.write_(self, _drawn_uniform(values, bound[self.pattern.rows()], generator))
        if self.bias is not None:
            self.bias.copy_(_drawn_uniform(self.bias, bound, generator))

    @property
    def nnz(self) -> int:
        """Number of kept real weights."""
        return self.pattern.nnz * math.prod(self._entry_shape())

    @property
    def density(self) -> float:
        """Kept fraction of the dense twin's weights."""
        return self.pattern.nnz / max(math.prod(self.pattern.shape), 1)

    def extra_repr(self) -> str:
        """Sizes and the kept fraction."""
        text = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{text}, bias={self.bias is not None}, density={self.density:.4g}"

    def _register(
        self, pattern: CSRPattern, values: Tensor | None, bias: bool, device: Any, dtype: Any
    ) -> None:
        """Register all tensors; device and dtype are by default those of the arguments."""
        shape = (pattern.nnz, *self._entry_shape())
        if values is None:
            device = pattern.device if device is None else device
            values = torch.empty(shape, device=device, dtype=dtype)
        else:
            FLOAT.check(type(self).__name__, {"values": values}, shape)
            values = values.detach().to(device=device, dtype=dtype, copy=True)
        self.store.register(self, values)
        biases = values.new_zeros(self._outputs()) if bias else None
        self.register_parameter("bias", None if biases is None else nn.Parameter(biases))
        self._set_pattern(on_device(pattern, values.device))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load the entries with their pattern, or the kept entries of a dense twin's weight."""
        assign = local_metadata.get("assign_to_params_buffers", False)
        names = (*self.store.tensors, "row_ptr", "col_idx", "weight")
        stored = {n: state_dict[prefix + n] for n in names if prefix + n in state_dict}
        is_dense = set(stored) == {"weight"}
        try:
            state = self._kept_state(stored["weight"]) if is_dense else self._adopt(stored, assign)
        except ValueError as error:
            error_msgs.append(f"{prefix.rstrip('.') or 'the layer'}: {error}")
            return
        for name in ("weight",) if is_dense else self._saved_pattern:
            if state_dict.pop(prefix + name, None) is None and strict and not is_dense:
                missing_keys.append(prefix + name)
        state_dict.update({prefix + name: tensor for name, tensor in state.items()})
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _kept_state(self, weight: Tensor) -> dict[str, Tensor]:
        """State with the layer's pattern and the kept entries of a dense weight."""
        rule = "can be loaded only if the layer's pattern contains data"
        op, has_data = type(self).__name__, not self.pattern.is_meta
        require(has_data, op, "weight", rule, "a layer on the meta device")
        return self.store.encode(self.pattern.gather(self._matrix(weight.to(self.pattern.device))))

    def _adopt(self, stored: dict[str, Tensor], assign: bool) -> dict[str, Tensor]:
        """State with stored entries and their pattern, after checking and making room for them."""
        names = (*self.store.tensors, "row_ptr", "col_idx")
        if not stored.keys() & set(names):
            return {}
        op, got = type(self).__name__, f"only {', '.join(sorted(stored))}"
        rule = f"must contain {', '.join(names[:-1])} and {names[-1]} together"
        require(stored.keys() >= set(names), op, "state_dict", rule, got)
        row_ptr, col_idx = stored["row_ptr"], stored["col_idx"]
        rows, columns = self._pattern.shape
        rule = f"must have shape {(rows + 1,)}"
        require(row_ptr.shape == (rows + 1,), op, "row_ptr", rule, tuple(row_ptr.shape))
        has_data = not (row_ptr.is_meta or col_idx.is_meta)
        require(has_data, op, "pattern", "must contain data", "meta tensors")
        entries = {name: stored[name] for name in self.store.tensors}
        self.store.check(op, entries, (*col_idx.shape, *self._entry_shape()))
        self._make_room(CSRPattern.from_csr(row_ptr, col_idx, columns), entries, assign)
        return entries

    def _make_room(self, pattern: CSRPattern, entries: dict[str, Tensor], assign: bool) -> None:
        """Replace the pattern by another one and resize the store's tensors accordingly."""
        first = self.store.tensors[0]
        device = entries[first].device if assign else getattr(self, first).device
        new = on_device(pattern, device)
        self._set_pattern(self._pattern if new.equals(self._pattern) else new)
        self.store.resize_(self, entries)


def _drawn_uniform(like: Tensor, bound: Tensor, generator: torch.Generator | None) -> Tensor:
    """U(-bound, bound) of the shape, dtype and device of a tensor, drawn on the generator's."""
    device = like.device if generator is None else generator.device
    drawn = torch.empty(like.shape, device=device, dtype=like.dtype)
    drawn.uniform_(-1, 1, generator=generator)
    return drawn.to(like.device) * bound


def check_pattern(op: str, pattern: Any, shape: tuple[int, int], of: str = "") -> None:
    """ValueError unless a layer's pattern is one, and has the shape `of` such a layer's."""
    rule = "must be a CSRPattern, such as CSRPattern.from_mask(mask)"
    require(isinstance(pattern, CSRPattern), op, "pattern", rule, type(pattern).__name__)
    rule = f"must have shape {shape}{of}"
    require(pattern.shape == shape, op, "pattern", rule, pattern.shape)


def checked_mask(op: str, module: Any, dense_class: type[nn.Module], mask: Tensor | None) -> Tensor:
    """The mask on the device of the module's weight, by default its entries other than 0."""
    if not isinstance(module, dense_class):
        raise argument_error(op, "module", f"must be {dense_class.__name__}", type(module).__name__)
    weight: Any = module.weight
    check_dense(op, "module.weight", weight)
    if mask is None:
        require(not weight.is_meta, op, "mask", "must be passed on the meta device", None)
        nonzero: Tensor = weight.detach() != 0
        return nonzero
    check_mask(op, "mask", mask, tuple(weight.shape))
    return mask if weight.is_meta else mask.to(weight.device)


def stored_weights(layer: PatternedLayer) -> tuple[str, ...]:
    """Name of the trained tensor of a layer's store, for `LayerType.weights`."""
    return layer.store.tensors[:1]


def with_store(arguments: dict[str, Any], layer: PatternedLayer) -> dict[str, Any]:
    """A layer's arguments in a file, with its value store if it is not the default one."""
    return arguments if layer.store == FLOAT else {**arguments, "store": layer.store.to_json()}


def build_with_store(build: Callable[..., Any]) -> Callable[..., Any]:
    """A builder that also accepts the argument added by `with_store`."""

    def build_layer(store: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
        layer = build(**arguments)
        if store is not None:
            layer.use_store(store_from_json(store))
        return layer

    return build_layer


def empty_pattern(rows: int, columns: int) -> CSRPattern:
    """A pattern without entries: a placeholder until the state is loaded."""
    col_idx = torch.zeros(0, dtype=torch.int32)
    return CSRPattern.from_csr(torch.zeros(rows + 1, dtype=torch.int32), col_idx, columns)
