"""Conversion of models: one function that walks the modules, and the rules for it."""

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
        model: any module; it is not modified. The root itself may be replaced.
        rule: called once for every module, with its name (its first one if it is shared) and the
            module; returns the module that replaces it everywhere, or None to keep a copy.

    Returns:
        The new model; it shares no tensor with the old one unless the rule does so. Shared modules
        stay shared; a new module gets the mode of the old one. Hooks of a replaced module, and the
        sharing of its parameters with other modules, are lost.
    """
    replacements: dict[int, Any] = {}
    for name, module in model.named_modules():
        new = rule(name, module)
        if new is not None:
            new.train(module.training)
            replacements[id(module)] = new
    return copy.deepcopy(model, replacements)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def to_dense(model: nn.Module) -> nn.Module:
    """A deep copy of a model in which every layer is replaced by its dense twin: the same function.

    SparseLinear and ExpanderLinear become nn.Linear, SparseQLinear and ExpanderQLinear become
    QLinear, QLinear becomes nn.Linear, and convolutions likewise; VectorMaxPool2d becomes
    nn.MaxPool2d. Each call takes one such step: a SparseQLinear becomes real in two.
    """
    dense = replace_modules(model, lambda _, module: dense_twin(module))
    unchain_sequentials(dense)
    return dense


def dense_twin(module: Any) -> nn.Module | None:
    """The module by which `to_dense` replaces a module; None if it keeps it."""
    entry = nearest_type(type(module))
    if entry is None or not hasattr(entry.layer, "to_dense"):
        return None
    twin: nn.Module = module.to_dense()
    return twin


def swap(
    model: nn.Module,
    table: Mapping[type[nn.Module], type[nn.Module]],
    filter: Callable[[str, nn.Module], bool] = lambda name, module: True,
    *,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A deep copy of a model in which freshly initialized quaternion layers replace real ones.

    The new layers have the sizes, bias, device and dtype of the old ones. Layers with a size not
    divisible by 4 (3-channel stems, 10-way heads), or with groups that split quaternions, are kept;
    the logger "sparseq" reports replaced and kept layers (INFO). Subclasses of a type in the table
    are kept too, since they may compute something else.

    Args:
        model: any module; it is not modified.
        table: real layer type -> quaternion layer type, such as {nn.Linear: QLinear,
            nn.Conv2d: QConv2d}.
        filter: called with name and layer; False keeps the layer.
        generator: source of the initial weights; torch's default generator if None.

    Raises:
        ValueError: a pair in the table that cannot be swapped.
    """
    _check_table(table)

    def rule(name: str, module: Any) -> nn.Module | None:
        quaternion_type: Any = table.get(type(module))
        if quaternion_type is None or not filter(name, module):
            return None
        try:
            layer: nn.Module = quaternion_type.like(module, generator)
        except ValueError as error:
            _log.info("swap kept %s: %s", name or "the model", error)
            return None
        _log.info("swap replaced %s by %s", name or "the model", quaternion_type.__name__)
        return layer

    return replace_modules(model, rule)


def _check_table(table: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    twins = swap_types()
    for real, quaternion in table.items():
        if real not in twins:
            names = [layer_class.__name__ for layer_class in twins]
            raise unknown_name("layer type to swap", getattr(real, "__name__", real), names)
        twin = twins[real]
        fits = isinstance(quaternion, type) and issubclass(quaternion, twin)
        rule = f"must be {twin.__name__} or a subclass of it"
        require(fits, "swap", f"table[{real.__name__}]", rule, quaternion)
