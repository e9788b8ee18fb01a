"""Conversion of whole models: one tree walker, and the rules that use it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sparseq.errors import require, unknown_name
from sparseq.nn.inference.chain import unchain_sequentials
from sparseq.nn.layer_types import nearest_type, swap_types

Rule = Callable[[str, nn.Module], nn.Module | None]
_log = logging.getLogger("sparseq")


def replace_modules(model: nn.Module, rule: Rule) -> nn.Module:
    """A deep copy of a model in which some modules are replaced.

    Args:
        model: any module, left as it is; may itself be replaced.
        rule: called with the name and module of every module once, a shared one under its first
            name; returns the module to put in its place everywhere, or None to keep a copy.

    Returns:
        The new model; it shares no tensor with the old one unless the rule makes it so. Modules
        used in several places stay shared; a new module gets the mode of the old one. Hooks of a
        replaced module, and a parameter it shared with another module, do not come along.
    """
    replaced: dict[int, Any] = {}
    for name, module in model.named_modules():
        new = rule(name, module)
        if new is not None:
            new.train(module.training)
            replaced[id(module)] = new
    return copy.deepcopy(model, replaced)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lies; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def to_dense(model: nn.Module) -> nn.Module:
    """A deep copy of a model, every layer one step back to its dense twin: the same function.

    SparseLinear and ExpanderLinear become nn.Linear, SparseQLinear and ExpanderQLinear become
    QLinear, QLinear becomes nn.Linear, and convolutions likewise; VectorMaxPool2d becomes
    nn.MaxPool2d.
    """
    dense = replace_modules(model, lambda _, module: dense_twin(module))
    unchain_sequentials(dense)
    return dense


def dense_twin(module: Any) -> nn.Module | None:
    """What `to_dense` makes of one module; None of one that it leaves."""
    known = nearest_type(type(module))
    return module.to_dense() if known is not None and hasattr(known.layer, "to_dense") else None


def swap(
    model: nn.Module,
    table: Mapping[type[nn.Module], type[nn.Module]],
    filter: Callable[[str, nn.Module], bool] = lambda name, module: True,
    *,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A deep copy of a model with freshly initialized quaternion layers in place of real ones.

    The new layers have the sizes, bias, device and dtype of the old ones. Layers with a size that
    is not divisible by 4 (3-channel stems, 10-way heads), or groups that split quaternions, are
    left; what was swapped and what was left is logged at level INFO by the logger "sparseq".
    Subclasses of a type in the table are left too, since they may be more than it.

    Args:
        model: any module, left as it is.
        table: real layer type -> quaternion layer type, such as {nn.Linear: QLinear,
            nn.Conv2d: QConv2d}.
        filter: called with name and layer; False leaves the layer.
        generator: source of the initial weights; torch's own by default.

    Raises:
        ValueError: a pair in the table that is not known.
    """
    _check_table(table)

    def rule(name: str, module: Any) -> nn.Module | None:
        target: Any = table.get(type(module))
        if target is None or not filter(name, module):
            return None
        try:
            layer = target.like(module, generator)
        except ValueError as error:
            _log.info("swap left %s: %s", name or "the model", error)
            return None
        _log.info("swap made %s a %s", name or "the model", target.__name__)
        return layer

    return replace_modules(model, rule)


def _check_table(table: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    twins = swap_types()
    for source, target in table.items():
        if source not in twins:
            known = [kind.__name__ for kind in twins]
            raise unknown_name("layer type to swap", getattr(source, "__name__", source), known)
        twin = twins[source]
        fits = isinstance(target, type) and issubclass(target, twin)
        rule = f"must be {twin.__name__}"
        require(fits, "swap", f"table[{source.__name__}]", rule, target)
