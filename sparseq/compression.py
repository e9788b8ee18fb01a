"""`compress`: a pruned dense model as one that holds and computes only the kept weights.

    Module + Mask -> Module with SparseLinear for nn.Linear, SparseQLinear for QLinear, and
                     sparse convolutions for dense ones

A new kind of layer is one entry in CONVERTERS and, for policy "auto", one in MEASURED.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import require, unknown_name
from sparseq.nn.chain import chain_sequentials
from sparseq.nn.convert import replace_modules
from sparseq.nn.quaternion import QLinear
from sparseq.nn.quaternion_conv import QConv1d, QConv2d, QConv3d
from sparseq.nn.sparse import SparseLinear, SparseQLinear
from sparseq.nn.sparse_conv import SparseConv1d, SparseConv2d, SparseConv3d
from sparseq.nn.sparse_quaternion_conv import SparseQConv1d, SparseQConv2d, SparseQConv3d
from sparseq.thresholds import STEPS, thresholds

POLICIES = ["auto", "sparse"]
LOGGER = logging.getLogger("sparseq")

Converter = Callable[[Any, Tensor], nn.Module]


CONVERTERS: dict[type[nn.Module], Converter] = {
    nn.Linear: SparseLinear.from_dense,
    QLinear: SparseQLinear.from_dense,  # whole quaternions where the mask allows
    nn.Conv1d: SparseConv1d.from_dense,
    nn.Conv2d: SparseConv2d.from_dense,
    nn.Conv3d: SparseConv3d.from_dense,
    QConv1d: SparseQConv1d.from_dense,
    QConv2d: SparseQConv2d.from_dense,
    QConv3d: SparseQConv3d.from_dense,
}

# rows of the table of break-even densities: single weights kept, and whole quaternions kept
MEASURED: dict[type[nn.Module], tuple[str, str]] = {
    nn.Linear: ("Linear", "Linear"),
    QLinear: ("QLinear by component", "QLinear by quaternion"),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), ("Conv2d", "Conv2d")),
    **dict.fromkeys((QConv1d, QConv2d, QConv3d), ("QConv2d by component", "QConv2d by quaternion")),
}


def compress(
    model: nn.Module,
    mask: Mapping[str, Tensor] | None = None,
    policy: str = "auto",
    *,
    batch: int = 64,
    training: bool = False,
) -> nn.Module:
    """A deep copy in which layers hold only their kept weights.

    Args:
        model: any module; it stays as it is. Its linear and convolution layers are candidates,
            subclasses are not: their own code may read `weight`.
        mask: parameter name -> bool tensor of the parameter's shape, True = keep (a `Mask`). What
            it drops is 0 in the copy, in layers that stay dense and other parameters too,
            whatever was there (NaN included). Layers it does not name stay dense. By default
            the mask of each candidate is what is not exactly 0.
        policy: "sparse" makes every candidate sparse; "auto" leaves dense those that would be
            slower sparse on torch's current threads (see `keep_dense`), and reports them to the
            logger "sparseq" (INFO).
        batch: the number of examples the network will mostly run at; policy "auto" goes by it.
        training: whether it will mostly be trained (forward and backward) or only run.

    Returns:
        The copy; sparse layers in a row of an nn.Sequential run as one kernel at inference (see
        `sparseq.nn.SparseSequential`). `sparseq.to_dense` undoes it, `sparseq.profile` measures it.

    Raises:
        ValueError: an unknown policy, a batch below 1, or a mask that does not fit the model's
            parameters.
    """
    require(batch >= 1, "compress", "batch", "must be at least 1", batch)
    if policy not in POLICIES:
        raise unknown_name("compress policy", policy, POLICIES)
    if mask is not None:
        _check_mask(model, mask)
    keeps = _kept_by_layer(model, mask)

    def sparse_twin(path: str, module: nn.Module) -> nn.Module | None:
        keep = keeps.get(path)
        if keep is None:
            return None
        if policy == "auto" and _stays_dense(path, module, keep, batch, training):
            return None
        return convert(module, keep)

    result = replace_modules(model, sparse_twin)
    _zero_dropped(result, mask or {})
    chain_sequentials(result)
    return result


def convert(module: nn.Module, keep: Tensor) -> nn.Module:
    """The sparse twin of a layer whose type is in CONVERTERS; `keep` as in `compress`."""
    return CONVERTERS[type(module)](module, keep)


def keep_dense(
    kind: type[nn.Module],
    density: float,
    shape: tuple[int, ...],
    batch: int = 64,
    *,
    whole: bool = False,
    training: bool = False,
) -> bool:
    """Whether a layer is faster dense: its density lies above `break_even`.

    Args:
        kind: the dense layer's type, a key of CONVERTERS.
        density: fraction of its weights that is kept.
        shape: of its weight.
        batch: rows of x at a call, images for a convolution.
        whole: quaternions are kept or dropped whole.
        training: count forward and backward, not the forward pass alone.
    """
    limit = break_even(kind, math.prod(shape), batch, whole=whole, training=training)
    return density > limit or limit == 0


def break_even(
    kind: type[nn.Module],
    weights: int,
    batch: int = 64,
    *,
    whole: bool = False,
    training: bool = False,
) -> float:
    """Density up to which a layer is no slower sparse; 0 if it always is.

    Measured on a CPU, for the threads that torch has now (bench/sweep.py); what lies between the
    measured sizes and batches takes the lower one of its neighbors, and threads that were not
    measured the lowest of those that were.

    Args:
        kind, batch, whole, training: as in `keep_dense`.
        weights: number of entries of the dense layer's weight.
    """
    tables = thresholds(MEASURED[kind][whole], STEPS[training], torch.get_num_threads())
    return min((table.limit(weights, batch) for table in tables), default=0.0)


def is_measured(kind: type[nn.Module], whole: bool = False, training: bool = False) -> bool:
    """Whether `break_even` goes by measurements; it is 0 for a kind of layer without any."""
    return bool(thresholds(MEASURED[kind][whole], STEPS[training], torch.get_num_threads()))


def keeps_whole(keep: Tensor) -> bool:
    """Whether a mask (4, m, k, ...) of a quaternion weight keeps or drops quaternions whole."""
    return keep.dim() >= 3 and bool((keep == keep[:1]).all())


def _stays_dense(path: str, module: nn.Module, keep: Tensor, batch: int, training: bool) -> bool:
    kind, density, whole = type(module), density_of(keep), keeps_whole(keep)
    dense = keep_dense(kind, density, tuple(keep.shape), batch, whole=whole, training=training)
    if dense:
        limit = break_even(kind, keep.numel(), batch, whole=whole, training=training)
        pays = f"sparse pays up to density {limit:.3g}" if limit else "too small for sparse"
        why = f"faster so at density {density:.3g} and batch {batch}: {pays}"
        if not is_measured(kind, whole, training):
            why = "as none of its kind was measured sparse; policy 'sparse' converts it"
        LOGGER.info("compress: %s (%s) stays dense, %s", path or "the model", kind.__name__, why)
    return dense


def density_of(keep: Tensor) -> float:
    """Fraction of True; 1 for an empty tensor."""
    return int(keep.count_nonzero()) / keep.numel() if keep.numel() else 1.0


def _kept_by_layer(model: nn.Module, mask: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Path of a candidate layer -> bool tensor of its weight's shape."""
    layers = {path: module for path, module in model.named_modules() if type(module) in CONVERTERS}
    if mask is None:
        return {path: layer.weight.detach() != 0 for path, layer in layers.items()}
    # by identity: a weight that two layers share has one name
    by_weight = {
        id(weight): mask[name] for name, weight in model.named_parameters() if name in mask
    }
    return {
        path: by_weight[id(layer.weight)].to(layer.weight.device)
        for path, layer in layers.items()
        if id(layer.weight) in by_weight
    }


def _check_mask(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, keep in mask.items():
        if name not in parameters:
            raise unknown_name("parameter in the mask", name, list(parameters))
        require(
            isinstance(keep, Tensor) and keep.dtype == torch.bool,
            "compress",
            f"mask[{name!r}]",
            "must be a bool tensor",
            getattr(keep, "dtype", type(keep)),
        )
        shape = tuple(parameters[name].shape)
        require(
            tuple(keep.shape) == shape,
            "compress",
            f"mask[{name!r}]",
            f"must have the parameter's shape {shape}",
            tuple(keep.shape),
        )


@torch.no_grad()
def _zero_dropped(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Zero what the mask drops in the parameters that are still there."""
    for name, parameter in model.named_parameters():
        if name in mask:
            parameter.masked_fill_(~mask[name].to(parameter.device), 0)
