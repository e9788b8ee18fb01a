"""Policy "auto" without an example: which layers become sparse, by the tables of `break_even`.

The tables say nothing about layers, maps, batches and backends outside of what was measured; such
layers stay dense, and the log says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparseq.compression.break_even import (
    break_even,
    density_of,
    is_convolution,
    keeps_whole,
    unmeasured,
)
from sparseq.compression.candidates import DENSE, SPARSE
from sparseq.compression.choice import Choice, Verdict
from sparseq.compression.map_sizes import map_sizes
from sparseq.nn.computed import plain_layer
from sparseq.nn.layer_types import sparse_type
from sparseq.ops._backend import activate
from sparseq.ops.build.cpu import cpu_class
from sparseq.ops.choice import measured


def choose_by_tables(
    model: nn.Module,
    keeps: Mapping[str, Tensor],
    batch: int,
    training: bool,
    in_shape: tuple[int, ...] | None,
) -> Choice:
    """The form that the tables give each layer.

    Args:
        model: any module.
        keeps: path of each candidate layer -> mask of its weight.
        batch, training, in_shape: as in `compress`.
    """
    shape = recorded_shape(model) if in_shape is None else in_shape
    rule = Auto({} if shape is None or not keeps else map_sizes(model, shape), batch, training)
    verdicts = {}
    for path, keep in keeps.items():
        layer = plain_layer(model.get_submodule(path))
        why, kind = rule.reason(path, layer, keep), type(layer).__name__
        taken = DENSE if why else SPARSE
        verdicts[path] = Verdict(path, kind, density_of(keep), taken, {}, why)
    return Choice(verdicts, None, None, f"batch {batch}, by tables")


def recorded_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Shape of one example as recorded by the model's builder (those of sparseq.models do)."""
    builder = getattr(model, "recipe", None)
    kwargs = builder.get("kwargs") if isinstance(builder, dict) else None
    shape = kwargs.get("in_shape") if isinstance(kwargs, dict) else None
    if not isinstance(shape, list | tuple) or not all(isinstance(size, int) for size in shape):
        return None
    return tuple(shape)


@dataclass(frozen=True)
class Auto:
    """How a network will be used, and the sizes of its layers' inputs.

    Attributes:
        maps: path -> for each call, see `map_sizes`; a layer may be missing.
        batch: examples per call of the network.
        training: forward and backward passes, or forward passes only.
    """

    maps: Mapping[str, Sequence[int]]
    batch: int
    training: bool

    def reason(self, path: str, module: nn.Module, keep: Tensor) -> str:
        """Why a layer stays dense; "" if the tables convert it."""
        unfit = "all its weights are kept" if density_of(keep) == 1 else _no_table(module)
        reasons = [unfit] if unfit else [self._at(module, keep, size) for size in self._sizes(path)]
        return next(filter(None, reasons), "")

    def _sizes(self, path: str) -> Sequence[int | None]:
        return self.maps.get(path) or [None]

    def _at(self, module: nn.Module, keep: Tensor, size: int | None) -> str:
        """Why the layer is the faster one dense in a call of that size, or not known to be."""
        kind, density, batch, positions = type(module), density_of(keep), self.batch, size
        if not is_convolution(module):
            batch, positions = self.batch * (size or 1), None
        options: dict[str, Any] = {
            "whole": keeps_whole(kind, keep),
            "training": self.training,
            "positions": positions,
        }
        limit = break_even(kind, tuple(keep.shape), batch, **options)
        if 0 < limit >= density:
            return ""
        gap = unmeasured(kind, tuple(keep.shape), batch, **options)
        if gap:
            return f"{gap} were not measured sparse; compress(example=...) measures"
        at = f"batch {batch}" + (f" on {positions} positions" if positions else "")
        pays = f"sparse pays up to density {limit:.3g}" if limit else "sparse pays at no density"
        return f"density {density:.3g} and {at}: {pays}{_elsewhere()}"


def _no_table(module: Any) -> str:
    """Why no table applies to a layer; "" if one does."""
    device = module.weight.device.type
    if device not in ("cpu", "meta"):
        return f"sparse layers were not measured on {device}; compress(example=...) measures"
    entry = sparse_type(type(module))
    op = entry.op if entry is not None and isinstance(entry.op, str) else None
    if device == "cpu" and op is not None and activate(device).get(op) == "reference":
        return "there are no compiled kernels, and the plain-torch ones are slower"
    if getattr(module, "groups", 1) > 1:
        return "convolutions with groups were not measured sparse; compress(example=...) measures"
    return ""


def _elsewhere() -> str:
    """The CPU on which the tables were measured, if it is not of this machine's class."""
    table, here = measured().cpu.name, cpu_class().name
    return "" if table == here else f", measured on {table}, not on this {here}"
