"""`fold_batchnorm`: normalization by running statistics, folded into the preceding layer.

A normalization in evaluation mode is an affine map, y = s x + t of each feature or y = A x + t of
each quaternion with A (4, 4); the preceding layer is linear, so one layer can compute both. The
affine map of a normalization and its folding into a layer are declared next to their classes
(`LayerType.affine` and `LayerType.fold`).
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from sparseq.nn.computed import copy_model
from sparseq.nn.inference.adjacent import adjacent_pairs
from sparseq.nn.inference.chain import chain_sequentials
from sparseq.nn.layer_types import LayerType, check_module, type_of, weight_parameters

_log = logging.getLogger("sparseq")


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A deep copy of a model for inference, with normalizations folded into the preceding layers.

        w' = A w,  b' = A b + t,  where the normalization is y = A x + t (A diagonal if real)

    An nn.BatchNorm1d/2d/3d or QBatchNorm1d/2d/3d is folded if it is in evaluation mode, has running
    statistics, and its input is the output of a layer into which it can be folded, used nowhere
    else; nn.Identity replaces it. The model computes the same up to rounding. Into a quaternion
    weight only a product with a quaternion on the left can be folded (such as one scale for all
    four components); whitening mixes the components in other ways and can be folded into real
    weights, unless they are sparse or have groups. The logger "sparseq" reports what was folded and
    what was not, and why (INFO). Sparse layers that become adjacent run as one kernel, see
    `SparseSequential`.

    The order of the modules is determined by torch.fx or, if tracing fails, by the order in each
    nn.Sequential, see `adjacent_pairs`. The features of a Linear are assumed to be dimension 1, as
    those of the normalization are.

    Args:
        model: any module; it is not modified.

    Returns:
        The copy; its modules have the modes of the model's.

    Source: Jacob et al. 2018, section 3.2, for real layers.
    """
    check_module("fold_batchnorm", model)
    folded = copy_model(model)
    reasons = {}
    for first, second in adjacent_pairs(model, _is_pair):
        layer, norm = folded.get_submodule(first), folded.get_submodule(second)
        reasons[second] = _fold(layer, norm)
        if reasons[second] is None:
            _log.info("fold_batchnorm folded %s into %s", second, first)
            parent, _, name = second.rpartition(".")
            setattr(folded.get_submodule(parent), name, nn.Identity().train(norm.training))
    for name, module in folded.named_modules():
        if is_normalization(module):
            reason = reasons.get(name) or "no layer precedes it into which it could be folded"
            _log.info("fold_batchnorm kept %s: %s", name or "the model", reason)
    chain_sequentials(folded)
    return folded


def is_normalization(module: nn.Module) -> bool:
    """Whether a module is a normalization that may be folded."""
    entry = type_of(type(module))
    return entry is not None and entry.affine is not None


def _is_pair(layer: nn.Module, norm: nn.Module) -> bool:
    entry = type_of(type(layer))
    return entry is not None and entry.fold is not None and is_normalization(norm)


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> str | None:
    """Fold a normalization into a layer, in place; returns the reason if that is not possible."""
    size = layer.out_features if hasattr(layer, "out_features") else layer.out_channels
    if norm.training or norm.running_mean is None:
        return "it is in training mode" if norm.training else "it has no running statistics"
    if norm.num_features != size:
        return f"it has {norm.num_features} features, the layer {size}"
    affine = _entry_of(norm).affine(norm)  # type: ignore[misc]
    weight = _entry_of(layer).fold(layer, affine)  # type: ignore[misc]
    if weight is None:
        return f"the weight of a {type(layer).__name__} cannot represent its mix of components"
    if hasattr(layer, "store"):
        layer.store.write_(layer, weight)
    else:
        layer.weight.copy_(weight)
    if layer.bias is None:
        old = weight_parameters(layer)[0]
        layer.bias = nn.Parameter(affine.shift.to(old.dtype), requires_grad=old.requires_grad)
    else:
        layer.bias.copy_(affine.linear(layer.bias.double()) + affine.shift)
    return None


def _entry_of(module: nn.Module) -> LayerType:
    entry = type_of(type(module))
    assert entry is not None
    return entry
