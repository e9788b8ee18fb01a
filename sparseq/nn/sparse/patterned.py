"""What the sparse layers share: a pattern in buffers, a store of kept entries, their loading."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.errors import argument_error, require
from sparseq.formats import CSRPattern, check_mask
from sparseq.nn.layer_types import weight_parameters
from sparseq.quant import FLOAT, ValueStore, store_from_json

PATTERN = ("row_ptr", "col_idx", "row_ptr_t", "col_idx_t", "perm")


class PatternedLayer(nn.Module):
    """A layer that holds the kept entries of a weight, at a CSR pattern and in a value store.

    The state_dict holds the store's tensors (`values` of the float store), `row_ptr`, `col_idx`
    (int32) and `bias`; the transposed pattern is rebuilt on load. A state_dict with another pattern
    replaces the layer's, after all checks; that of the dense twin (`weight`) loads through the
    pattern. The parameters stay the same objects, but an optimizer's state for them fits only while
    the number of entries stays.

    Attributes:
        store: how the kept entries are held, see `sparseq.quant.ValueStore`.
    """

    store: ValueStore = FLOAT

    __constants__: ClassVar[list[str]] = ["in_features", "out_features"]
    in_features: int
    out_features: int
    bias: nn.Parameter | None
    row_ptr: Tensor
    col_idx: Tensor

    def kept_values(self) -> Tensor:
        """(nnz, ...) the kept entries as floats in CSR order, differentiable in what is trained."""
        return self.store.values(self)

    def use_store(self, store: ValueStore) -> None:
        """Hold the kept entries in another store; what that one rounds away is lost."""
        values = self.kept_values().detach()
        trained = all(parameter.requires_grad for parameter in weight_parameters(self))
        self.store.unregister(self)
        self.store = store
        bias = self._parameters.pop("bias")
        store.register(self, values)
        self.register_parameter("bias", bias)  # after the entries, as in every layer
        for parameter in weight_parameters(self):
            parameter.requires_grad_(trained)

    def dense_weight(self) -> Tensor:
        """The dense twin's weight, zero where nothing is kept; differentiable in the entries."""
        raise NotImplementedError

    def _matrix(self, weight: Tensor) -> Tensor:
        """The dense twin's weight as the matrix the pattern is of, checked; (m, k, ...)."""
        raise NotImplementedError

    def _entry_shape(self) -> tuple[int, ...]:
        """Shape of one kept entry."""
        return ()

    def _outputs(self) -> int:
        """Number of biases."""
        return self.out_features

    @torch.no_grad()
    def _draw_by_inputs(self, generator: torch.Generator | None) -> None:
        """Draw values and bias from U(-b, b), b = 1 / sqrt(kept inputs of the row)."""
        values = self.kept_values()
        if values.is_meta:
            return
        bound = self.row_ptr.diff().clamp(min=1).to(values.dtype).rsqrt()
        self.store.write_(self, _drawn_uniform(values, bound[self.pattern.rows()], generator))
        if self.bias is not None:
            self.bias.copy_(_drawn_uniform(self.bias, bound, generator))

    def _pattern_tensors(self) -> list[Any]:
        """The five tensors as the ops take them; straight from the dict, as it runs every call."""
        own = self._buffers
        return [own["row_ptr"], own["col_idx"], own["row_ptr_t"], own["col_idx_t"], own["perm"]]

    @property
    def pattern(self) -> CSRPattern:
        """Where the kept entries are; its tensors are the layer's own buffers."""
        return CSRPattern(*self._pattern_tensors())

    @property
    def nnz(self) -> int:
        """Number of kept real weights."""
        return self.col_idx.numel() * math.prod(self._entry_shape())

    @property
    def density(self) -> float:
        """Kept fraction of the dense twin's weights."""
        return self.col_idx.numel() / max(math.prod(self.pattern.shape), 1)

    def extra_repr(self) -> str:
        """Sizes and the kept fraction."""
        text = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{text}, bias={self.bias is not None}, density={self.density:.4g}"

    def _register(
        self, pattern: CSRPattern, values: Tensor | None, bias: bool, device: Any, dtype: Any
    ) -> None:
        """Enter the tensors; device and dtype are by default those of what is given."""
        shape = (pattern.nnz, *self._entry_shape())
        if values is None:
            device = pattern.col_idx.device if device is None else device
            values = torch.empty(shape, device=device, dtype=dtype)
        else:
            FLOAT.check(type(self).__name__, {"values": values}, shape)
            values = values.detach().to(device=device, dtype=dtype, copy=True)
        self.store.register(self, values)
        zeros = values.new_zeros(self._outputs()) if bias else None
        self.register_parameter("bias", None if zeros is None else nn.Parameter(zeros))
        self._register_pattern(pattern.map(lambda tensor: tensor.to(values.device)))

    def _register_pattern(self, pattern: CSRPattern) -> None:
        for name, tensor in zip(PATTERN, pattern.tensors, strict=True):
            self.register_buffer(name, tensor, persistent=name in ("row_ptr", "col_idx"))

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list,
        unexpected_keys: list,
        error_msgs: list,
    ) -> None:
        """Adopt the pattern that comes, or select by ours from a dense twin's weight."""
        assign = local_metadata.get("assign_to_params_buffers", False)
        names = (*self.store.tensors, "row_ptr", "col_idx", "weight")
        stored = {n: state_dict[prefix + n] for n in names if prefix + n in state_dict}
        dense = set(stored) == {"weight"}
        try:
            new = self._selected(stored["weight"]) if dense else self._adopted(stored, assign)
        except ValueError as error:
            error_msgs.append(f"{prefix.rstrip('.') or 'the layer'}: {error}")
            return
        if dense:
            del state_dict[f"{prefix}weight"]
        state_dict.update({prefix + name: tensor for name, tensor in new.items()})
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _selected(self, weight: Tensor) -> dict[str, Tensor]:
        """State with our pattern and the kept entries of a dense weight."""
        rule = "loads through the pattern, which must hold data"
        op, held = type(self).__name__, not self.col_idx.is_meta
        require(held, op, "weight", rule, "a layer on the meta device")
        kept = self.pattern.gather(self._matrix(weight.to(self.col_idx.device)))
        return {**self.store.encode(kept), "row_ptr": self.row_ptr, "col_idx": self.col_idx}

    def _adopted(self, stored: dict[str, Tensor], assign: bool) -> dict[str, Tensor]:
        """State with the entries and pattern that come, checked, after making room for them."""
        names = (*self.store.tensors, "row_ptr", "col_idx")
        if not stored.keys() & set(names):
            return {}
        op, got = type(self).__name__, f"only {', '.join(sorted(stored))}"
        rule = f"must hold {', '.join(names[:-1])} and {names[-1]} together"
        require(stored.keys() >= set(names), op, "state_dict", rule, got)
        row_ptr, col_idx = stored["row_ptr"], stored["col_idx"]
        rows, columns = self.pattern.shape
        rule = f"must have shape {(rows + 1,)}"
        require(row_ptr.shape == (rows + 1,), op, "row_ptr", rule, tuple(row_ptr.shape))
        held = not (row_ptr.is_meta or col_idx.is_meta)
        require(held, op, "pattern", "must hold data", "meta tensors")
        entries = {name: stored[name] for name in self.store.tensors}
        self.store.check(op, entries, (*col_idx.shape, *self._entry_shape()))
        self._make_room(CSRPattern.from_csr(row_ptr, col_idx, columns), entries, assign)
        return {**entries, "row_ptr": self.row_ptr, "col_idx": self.col_idx}

    def _make_room(self, pattern: CSRPattern, entries: dict[str, Tensor], assign: bool) -> None:
        """Replace the pattern if it is another, and the sizes of the store's tensors with it."""
        first = self.store.tensors[0]
        device = entries[first].device if assign else getattr(self, first).device
        new = pattern.map(lambda tensor: tensor.to(device, copy=True))
        if not _same(new.tensors, self.pattern.tensors):
            self._register_pattern(new)
        self.store.resize_(self, entries)


def _drawn_uniform(like: Tensor, bound: Tensor, generator: torch.Generator | None) -> Tensor:
    """U(-bound, bound) of the shape, dtype and device of a tensor, drawn where the generator is."""
    device = like.device if generator is None else generator.device
    draw = torch.empty(like.shape, device=device, dtype=like.dtype)
    draw.uniform_(-1, 1, generator=generator)
    return draw.to(like.device) * bound


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two patterns lie on one device, not meta, and are equal."""
    if a[0].device != b[0].device or a[0].is_meta:
        return False
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def checked_mask(op: str, module: Any, kind: type[nn.Module], mask: Tensor | None) -> Tensor:
    """The mask where the module's weight is, or the weight's exact non-zeros, after all checks."""
    if not isinstance(module, kind):
        raise argument_error(op, "module", f"must be {kind.__name__}", type(module).__name__)
    weight: Any = module.weight
    if mask is None:
        require(not weight.is_meta, op, "mask", "must be given on the meta device", None)
        return weight.detach() != 0
    check_mask(op, "mask", mask, tuple(weight.shape))
    return mask if weight.is_meta else mask.to(weight.device)


def stored_weights(layer: PatternedLayer) -> tuple[str, ...]:
    """The trained tensor that holds a layer's kept entries, for the registry."""
    return layer.store.tensors[:1]


def with_store(arguments: dict[str, Any], layer: PatternedLayer) -> dict[str, Any]:
    """A layer's arguments in a file, with its value store where that is not the usual one."""
    return arguments if layer.store == FLOAT else {**arguments, "store": layer.store.to_json()}


def build_with_store(build: Callable[..., Any]) -> Callable[..., Any]:
    """A builder that also understands the argument that `with_store` adds."""

    def building(store: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
        layer = build(**arguments)
        if store is not None:
            layer.use_store(store_from_json(store))
        return layer

    return building


def empty_pattern(rows: int, columns: int) -> CSRPattern:
    """A pattern that keeps nothing: a place holder until the state is loaded."""
    none = torch.zeros(0, dtype=torch.int32)
    return CSRPattern.from_csr(torch.zeros(rows + 1, dtype=torch.int32), none, columns)
