"""`compress`: a pruned dense model as one that holds and computes only the kept weights.

    Module + Mask -> Module with SparseLinear for nn.Linear, SparseQLinear for QLinear

A new kind of layer is one entry in CONVERTERS and, for policy "auto", one in DENSE_ABOVE.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import require, unknown_name
from sparseq.nn.convert import replace_modules
from sparseq.nn.quaternion import QLinear
from sparseq.nn.sparse import SparseLinear, SparseQLinear

POLICIES = ["auto", "sparse"]
LOGGER = logging.getLogger("sparseq")

Converter = Callable[[Any, Tensor], nn.Module]


CONVERTERS: dict[type[nn.Module], Converter] = {
    nn.Linear: SparseLinear.from_dense,
    QLinear: SparseQLinear.from_dense,  # whole quaternions where the mask allows
}

# fraction kept above which the dense kernel is the faster one
DENSE_ABOVE: dict[type[nn.Module], float] = {nn.Linear: 0.4, QLinear: 0.3}


def compress(
    model: nn.Module, mask: Mapping[str, Tensor] | None = None, policy: str = "auto"
) -> nn.Module:
    """A deep copy in which layers hold only their kept weights.

    Args:
        model: any module; it stays as it is. Its nn.Linear and QLinear layers are candidates,
            subclasses are not: their own code may read `weight`.
        mask: parameter name -> bool tensor of the parameter's shape, True = keep (a `Mask`). What
            it drops is 0 in the copy, in layers that stay dense and other parameters too,
            whatever was there (NaN included). Layers it does not name stay dense. By default
            the mask of each candidate is what is not exactly 0.
        policy: "sparse" makes every candidate sparse; "auto" leaves dense those that would be
            slower sparse (see `keep_dense`), and reports them to the logger "sparseq" (INFO).

    Returns:
        The copy. `sparseq.to_dense` undoes it, `sparseq.profile` measures it.

    Raises:
        ValueError: an unknown policy, or a mask that does not fit the model's parameters.
    """
    if policy not in POLICIES:
        raise unknown_name("compress policy", policy, POLICIES)
    if mask is not None:
        _check_mask(model, mask)
    keeps = _kept_by_layer(model, mask)

    def sparse_twin(path: str, module: nn.Module) -> nn.Module | None:
        keep = keeps.get(path)
        if keep is None or (policy == "auto" and _stays_dense(path, module, keep)):
            return None
        return convert(module, keep)

    result = replace_modules(model, sparse_twin)
    _zero_dropped(result, mask or {})
    return result


def convert(module: nn.Module, keep: Tensor) -> nn.Module:
    """The sparse twin of a layer whose type is in CONVERTERS; `keep` as in `compress`."""
    return CONVERTERS[type(module)](module, keep)


def keep_dense(kind: type[nn.Module], density: float, shape: tuple[int, ...]) -> bool:
    """Whether a layer is faster dense.

    Args:
        kind: the dense layer's type, a key of CONVERTERS.
        density: fraction of its weights that is kept.
        shape: of its weight.
    """
    return density > DENSE_ABOVE[kind]


def _stays_dense(path: str, module: nn.Module, keep: Tensor) -> bool:
    density = density_of(keep)
    dense = keep_dense(type(module), density, tuple(keep.shape))
    if dense:
        LOGGER.info(
            "compress: %s (%s) stays dense, faster so at density %.3g",
            path or "the model",
            type(module).__name__,
            density,
        )
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
