"""`fold_batchnorm`: normalization by running statistics, taken into the layer before it.

A normalization in evaluation mode is an affine map of its features, y = s x + t for each, or for
each quaternion y = A x + t with A (4, 4); the layer before it is linear, so one layer does both.
What a normalization is and how a layer takes it in stands beside their classes (`LayerType.affine`
and `LayerType.fold`).
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import nn

from sparseq.nn.inference.adjacent import adjacent_pairs
from sparseq.nn.inference.chain import chain_sequentials
from sparseq.nn.layer_types import LayerType, type_of, weight_parameters

_log = logging.getLogger("sparseq")


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A deep copy of a model for inference, normalizations folded into the layers before them.

    Folded are nn.BatchNorm1d/2d/3d and QBatchNorm1d/2d/3d that are in evaluation mode, have running
    statistics and follow, alone, a layer that takes them in; nn.Identity takes their place. The
    model computes the same up to rounding. A quaternion weight takes in what multiplies by a
    quaternion from the left (such as one scale for the four components); whitening, which mixes the
    components otherwise, goes into real weights, unless they are sparse or have groups. What was
    left, and why, is told by the logger "sparseq" (INFO). Sparse layers between which nothing is
    left run as one kernel, see `SparseSequential`.

    Which module follows which is found by torch.fx, or where that fails in the order of each
    nn.Sequential, see `adjacent_pairs`. A Linear is taken to have its features in dimension 1, as
    the normalization has.

    Args:
        model: any module, left as it is.

    Returns:
        The copy, in the modes of the model.

    Source: Jacob et al. 2018, section 3.2, for real layers.
    """
    folded = copy.deepcopy(model)
    reasons = {}
    for first, second in adjacent_pairs(model, _is_pair):
        layer, norm = folded.get_submodule(first), folded.get_submodule(second)
        reasons[second] = _fold(layer, norm)
        if reasons[second] is None:
            _log.info("fold_batchnorm took %s into %s", second, first)
            parent, _, name = second.rpartition(".")
            setattr(folded.get_submodule(parent), name, nn.Identity().train(norm.training))
    for name, module in folded.named_modules():
        if is_normalization(module):
            reason = reasons.get(name) or "it follows no layer alone that it could go into"
            _log.info("fold_batchnorm left %s: %s", name or "the model", reason)
    chain_sequentials(folded)
    return folded


def is_normalization(module: nn.Module) -> bool:
    """Whether a module is a normalization that may be folded."""
    known = type_of(type(module))
    return known is not None and known.affine is not None


def _is_pair(layer: nn.Module, norm: nn.Module) -> bool:
    known = type_of(type(layer))
    return known is not None and known.fold is not None and is_normalization(norm)


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> str | None:
    """Fold in place; returns why not."""
    size = layer.out_features if hasattr(layer, "out_features") else layer.out_channels
    if norm.training or norm.running_mean is None:
        return "it is in training mode" if norm.training else "it has no running statistics"
    if norm.num_features != size:
        return f"it has {norm.num_features} features, the layer {size}"
    affine = _known(norm).affine(norm)  # type: ignore[misc]
    weight = _known(layer).fold(layer, affine)  # type: ignore[misc]
    if weight is None:
        return f"a {type(layer).__name__} cannot hold what it does to the components"
    if hasattr(layer, "store"):
        layer.store.write_(layer, weight)
    else:
        layer.weight.copy_(weight)
    bias = affine.shift if layer.bias is None else affine.rows(layer.bias.double()) + affine.shift
    if layer.bias is None:
        old = weight_parameters(layer)[0]
        layer.bias = nn.Parameter(bias.to(old.dtype), requires_grad=old.requires_grad)
    else:
        layer.bias.copy_(bias)
    return None


def _known(module: nn.Module) -> LayerType:
    known = type_of(type(module))
    assert known is not None
    return known
