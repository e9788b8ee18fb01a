"""What users attach to a layer, carried over to the layer that replaces it."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import nn

from sparseq.nn.layer_types import type_of

HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks"),
)
STATE_HOOKS = (
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
TENSORS = ("_parameters", "_buffers", "_modules")
_OWN_ATTRIBUTES: dict[type[nn.Module], frozenset[str]] = {}


def carry_over(old: nn.Module, new: nn.Module, memo: dict[int, Any]) -> list[str]:
    """Copy a layer's hooks, and attributes that its class does not set itself, to its replacement.

    Also carried over are tensors and modules that a user added to the layer.

    Args:
        old: the layer; of one whose class is not registered only the hooks are carried over.
        new: its replacement; changed in place.
        memo: id -> copy, of the deep copy of the model to which `new` belongs.

    Returns:
        Names of what could not be carried over: hooks on the state_dict, whose entries differ.
    """
    for name in HOOKS:
        vars(new)[name] = copy.deepcopy(vars(old)[name], memo)
    if old._backward_hooks:
        new._is_full_backward_hook = old._is_full_backward_hook
    if type_of(type(old)) is not None:
        _carry_attributes(old, new, memo)
    return [name.strip("_") for name in STATE_HOOKS if vars(old)[name]]


def _carry_attributes(old: nn.Module, new: nn.Module, memo: dict[int, Any]) -> None:
    own = own_attributes(old)
    for name in vars(old).keys() - vars(new).keys() - own:
        vars(new)[name] = copy.deepcopy(vars(old)[name], memo)
    for kind in TENSORS:
        for name in vars(old)[kind].keys() - own:
            vars(new)[kind][name] = copy.deepcopy(vars(old)[kind][name], memo)
    new._non_persistent_buffers_set |= old._non_persistent_buffers_set - own


def own_attributes(layer: nn.Module) -> frozenset[str]:
    """Names of the attributes, tensors and modules that the class of a layer sets itself."""
    kind = type(layer)
    if kind not in _OWN_ATTRIBUTES:
        fresh = _another(layer)
        names = {name for tensors in TENSORS for name in vars(fresh)[tensors]}
        _OWN_ATTRIBUTES[kind] = frozenset(vars(fresh).keys() | names)
    return _OWN_ATTRIBUTES[kind]


def _another(layer: nn.Module) -> nn.Module:
    """A new layer with the same arguments; the random state is unchanged."""
    entry = type_of(type(layer))
    assert entry is not None
    build, arguments = entry.build or entry.layer, entry.arguments(layer)
    if "device" in inspect.signature(build).parameters:
        arguments["device"] = "meta"
    with torch.random.fork_rng(devices=[]):
        return build(**arguments)
