"""`compress`: conversion of a pruned dense model to sparse layers.

    Module + Mask -> Module with SparseLinear for nn.Linear, SparseQLinear for QLinear, and
                     sparse convolutions for dense ones

Sparse twins and their construction are declared next to the layer classes
(`sparseq.nn.layer_types`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.compression.break_even import (
    break_even,
    density_of,
    is_convolution,
    is_measured,
    keeps_whole,
)
from sparseq.compression.kept_weights import kept_by_layer, pruned_but_dense
from sparseq.compression.map_sizes import map_sizes
from sparseq.errors import require, unknown_name, warn
from sparseq.formats import check_masks
from sparseq.nn.convert import replace_modules
from sparseq.nn.inference.chain import chain_sequentials
from sparseq.nn.layer_types import sparse_type
from sparseq.nn.parameter_names import described

POLICIES = ["auto", "sparse"]
LOGGER = logging.getLogger("sparseq")


def compress(
    model: nn.Module,
    mask: Mapping[str, Tensor] | None = None,
    policy: str = "auto",
    *,
    batch: int = 64,
    training: bool = False,
    in_shape: tuple[int, ...] | None = None,
) -> nn.Module:
    """A deep copy whose sparse layers store only the kept weights.

    Args:
        model: any module; it is not modified. Its linear and convolution layers are candidates;
            their subclasses are not, since their own code may compute something else. Weights
            that are computed (torch.nn.utils.prune, weight_norm, parametrizations) are those that
            forward would use. Hooks, users' attributes and shared weights are carried over; what
            cannot be, and pruned weights without a sparse layer, are named in a warning.
        mask: parameter name -> bool tensor of the parameter's shape, True = keep (a `Mask`).
            Dropped entries are 0 in the copy, whatever their value was (NaN included), also in
            layers that stay dense and in other parameters. Layers without a mask stay dense. By
            default each candidate keeps what torch.nn.utils.prune keeps of it, or else its weights
            other than 0.
        policy: "sparse" converts every candidate; "auto" keeps those dense that would be slower
            sparse with torch's current number of threads (see `sparseq.compression.break_even`),
            and reports them to the logger "sparseq" (INFO).
        batch: typical number of examples per call, for policy "auto".
        training: whether to compare forward and backward passes, or forward passes only, for
            policy "auto".
        in_shape: shape of one example, such as (3, 32, 32). The cost of a sparse convolution
            depends on the size of its map, which policy "auto" finds by running a copy of the model
            on one example of zeros. By default the shape recorded by `sparseq.models`; without one,
            the worst of the measured maps counts for each convolution.

    Returns:
        The copy. Consecutive sparse layers of an nn.Sequential run as one kernel at inference (see
        `sparseq.nn.SparseSequential`). `sparseq.to_dense` undoes it, `sparseq.profile` measures it.

    Raises:
        ValueError: an unknown policy, a batch below 1, a mask that does not fit the model's
            parameters, or an in_shape that the model does not accept.
    """
    require(batch >= 1, "compress", "batch", "must be at least 1", batch)
    if policy not in POLICIES:
        raise unknown_name("compress policy", policy, POLICIES)
    if mask is not None:
        check_masks("compress", "mask", mask, dict(model.named_parameters()))
    keeps = kept_by_layer(model, mask)
    left = pruned_but_dense(model, mask, keeps)
    if left:
        warn("compress", f"pruned, but dense for want of a sparse layer: {described(model, left)}")
    rule = Auto(_maps_of(model, keeps, in_shape), batch, training) if policy == "auto" else None

    def sparse_twin(path: str, module: nn.Module) -> nn.Module | None:
        keep = keeps.get(path)
        if keep is None or (rule is not None and rule.stays_dense(path, module, keep)):
            return None
        return convert(module, keep)

    result = replace_modules(model, sparse_twin, "compress")
    _zero_dropped(result, mask or {})
    chain_sequentials(result)
    return result


def convert(module: nn.Module, keep: Tensor) -> nn.Module:
    """The sparse twin of a layer that has one (`sparse_type`); `keep` as in `compress`."""
    entry = sparse_type(type(module))
    assert entry is not None
    layer: Any = entry.layer
    twin: nn.Module = layer.from_dense(module, keep)
    return twin


@dataclass(frozen=True)
class Auto:
    """Policy "auto": how a network will be used, and the sizes of its convolutions' maps."""

    maps: Mapping[str, Sequence[int]]
    batch: int
    training: bool

    def stays_dense(self, path: str, module: nn.Module, keep: Tensor) -> bool:
        """Whether the layer is faster dense; if so, this is logged."""
        kind, density = type(module), density_of(keep)
        limit, positions = self.limit(path, kind, keep)
        if 0 < limit >= density:
            return False
        at = f"and batch {self.batch}" + (f" on {positions} positions" if positions else "")
        pays = f"sparse pays up to density {limit:.3g}" if limit else "too small for sparse"
        why = f"faster so at density {density:.3g} {at}: {pays}"
        if not is_measured(kind, tuple(keep.shape), keeps_whole(kind, keep), self.training):
            why = "as none of its kind was measured sparse; policy 'sparse' converts it"
        LOGGER.info("compress: %s (%s) stays dense, %s", path or "the model", kind.__name__, why)
        return True

    def limit(self, path: str, kind: type[nn.Module], keep: Tensor) -> tuple[float, int | None]:
        """The lowest break-even density of a layer's calls, and the positions of that call."""
        limit_at = partial(
            break_even,
            kind,
            tuple(keep.shape),
            self.batch,
            whole=keeps_whole(kind, keep),
            training=self.training,
        )
        calls: Sequence[int | None] = self.maps.get(path) or [None]
        return min((limit_at(positions=positions), positions) for positions in calls)


def recorded_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Shape of one example as recorded by the model's builder (those of sparseq.models do)."""
    builder = getattr(model, "recipe", None)
    kwargs = builder.get("kwargs") if isinstance(builder, dict) else None
    shape = kwargs.get("in_shape") if isinstance(kwargs, dict) else None
    if not isinstance(shape, list | tuple) or not all(isinstance(size, int) for size in shape):
        return None
    return tuple(shape)


def _maps_of(
    model: nn.Module, keeps: Mapping[str, Tensor], in_shape: tuple[int, ...] | None
) -> dict[str, list[int]]:
    """`map_sizes` if the model has a candidate convolution and the shape is available, else {}."""
    shape = recorded_shape(model) if in_shape is None else in_shape
    has_convolution = any(is_convolution(model.get_submodule(path)) for path in keeps)
    return map_sizes(model, shape) if shape is not None and has_convolution else {}


@torch.no_grad()
def _zero_dropped(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Zero the dropped entries of the parameters that were not converted."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in mask:
            parameter.masked_fill_(~mask[name].to(parameter.device), 0)
