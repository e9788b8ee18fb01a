"""What the sparse layers share: a pattern in buffers, the kept values, and their loading."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.errors import argument_error, require
from sparseq.formats import CSRPattern

PATTERN = ("row_ptr", "col_idx", "row_ptr_t", "col_idx_t", "perm")


class PatternedLayer(nn.Module):
    """A layer that holds the kept entries of a weight as `values`, at a CSR pattern.

    The state_dict holds `values`, `row_ptr`, `col_idx` (int32) and `bias`; the transposed pattern
    is rebuilt on load. A state_dict with another pattern replaces the layer's, after all checks;
    that of the dense twin (`weight`) loads through the pattern. The parameter `values` stays the
    same object, but an optimizer's state for it fits only while the number of values stays.
    """

    __constants__: ClassVar[list[str]] = ["in_features", "out_features"]
    in_features: int
    out_features: int
    values: nn.Parameter
    bias: nn.Parameter | None
    row_ptr: Tensor
    col_idx: Tensor

    def dense_weight(self) -> Tensor:
        """The dense twin's weight, zero where nothing is kept; differentiable in `values`."""
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
        if self.values.is_meta:
            return
        bound = self.row_ptr.diff().clamp(min=1).to(self.values.dtype).rsqrt()
        _draw_uniform_(self.values, bound[self.pattern.rows()], generator)
        if self.bias is not None:
            _draw_uniform_(self.bias, bound, generator)

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
        return self.values.numel()

    @property
    def density(self) -> float:
        """Kept fraction of the dense twin's weights."""
        return self.nnz / max(math.prod(self.pattern.shape) * math.prod(self._entry_shape()), 1)

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
            self._check_values(values, shape)
            values = values.detach().to(device=device, dtype=dtype, copy=True)
        self.values = nn.Parameter(values)
        zeros = values.new_zeros(self._outputs()) if bias else None
        self.register_parameter("bias", None if zeros is None else nn.Parameter(zeros))
        self._register_pattern(pattern.map(lambda tensor: tensor.to(values.device)))

    def _register_pattern(self, pattern: CSRPattern) -> None:
        for name, tensor in zip(PATTERN, pattern.tensors, strict=True):
            self.register_buffer(name, tensor, persistent=name in ("row_ptr", "col_idx"))

    def _check_values(self, values: Tensor, shape: tuple[int, ...]) -> None:
        require(
            values.shape == shape and values.is_floating_point(),
            type(self).__name__,
            "values",
            f"must be floating point of shape {shape}",
            f"{values.dtype} {tuple(values.shape)}",
        )

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
        names = ("values", "row_ptr", "col_idx", "weight")
        found = {n: state_dict[prefix + n] for n in names if prefix + n in state_dict}
        try:
            dense = set(found) == {"weight"}
            new = self._selected(found["weight"]) if dense else self._adopted(found, assign)
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
        require(
            not self.col_idx.is_meta,
            type(self).__name__,
            "weight",
            "loads through the pattern, which must hold data",
            "a layer on the meta device",
        )
        kept = self.pattern.gather(self._matrix(weight.to(self.col_idx.device)))
        return {"values": kept, "row_ptr": self.row_ptr, "col_idx": self.col_idx}

    def _adopted(self, found: dict[str, Tensor], assign: bool) -> dict[str, Tensor]:
        """State with the values, pattern and bias found, checked, after making room for them."""
        own = [found[name] for name in ("values", "row_ptr", "col_idx") if name in found]
        if not own:
            return {}
        op = type(self).__name__
        require(
            len(own) == 3,
            op,
            "state_dict",
            "must hold values, row_ptr and col_idx together",
            f"only {', '.join(sorted(found))}",
        )
        values, row_ptr, col_idx = own
        rows, columns = self.pattern.shape
        require(
            row_ptr.shape == (rows + 1,),
            op,
            "row_ptr",
            f"must have shape {(rows + 1,)}",
            tuple(row_ptr.shape),
        )
        require(
            not (row_ptr.is_meta or col_idx.is_meta),
            op,
            "pattern",
            "must hold data",
            "meta tensors",
        )
        self._check_values(values, (*col_idx.shape, *self._entry_shape()))
        self._make_room(CSRPattern.from_csr(row_ptr, col_idx, columns), values, assign)
        return {"values": values, "row_ptr": self.row_ptr, "col_idx": self.col_idx}

    def _make_room(self, pattern: CSRPattern, values: Tensor, assign: bool) -> None:
        """Replace the pattern if it is another one, and the size of `values` with it."""
        device = values.device if assign else self.values.device
        new = pattern.map(lambda tensor: tensor.to(device, copy=True))
        if not _same(new.tensors, self.pattern.tensors):
            self._register_pattern(new)
        if values.shape != self.values.shape:
            # the parameter object stays, so that an optimizer that holds it goes on training it
            self.values.data = self.values.new_empty(values.shape)
            self.values.grad = None


def _draw_uniform_(parameter: Tensor, bound: Tensor, generator: torch.Generator | None) -> None:
    """Fill with U(-bound, bound), drawn where the generator lives."""
    device = parameter.device if generator is None else generator.device
    draw = torch.empty(parameter.shape, device=device, dtype=parameter.dtype)
    draw.uniform_(-1, 1, generator=generator)
    torch.mul(draw.to(parameter.device), bound, out=parameter)


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
    require(
        mask.shape == weight.shape and mask.dtype == torch.bool,
        op,
        "mask",
        f"must be bool of shape {tuple(weight.shape)}",
        f"{mask.dtype} {tuple(mask.shape)}",
    )
    return mask if weight.is_meta else mask.to(weight.device)
