"""The default value store: kept entries as one floating point parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparseq.errors import require
from sparseq.ops._inputs import check_dense
from sparseq.quant.store import STORES, ValueStore


@STORES.register("float")
@dataclass(frozen=True)
class FloatStore(ValueStore):
    """Stores the entries as the parameter `values`, of any floating point dtype."""

    name = "float"
    tensors = ("values",)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """{"values": the entries as a parameter}."""
        return {"values": nn.Parameter(values)}

    def values(self, layer: Any) -> Tensor:
        """The parameter itself."""
        values: Tensor = layer.values
        return values

    def check(self, op: str, stored: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
        """ValueError unless `values` is floating point of that shape."""
        values = stored["values"]
        check_dense(op, "values", values)
        fits = values.shape == shape and values.is_floating_point()
        rule = f"must be floating point of shape {shape}"
        require(fits, op, "values", rule, f"{values.dtype} {tuple(values.shape)}")


FLOAT = FloatStore()
