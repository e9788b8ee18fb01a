"""Conversion of models: one function that walks the modules, and the rules for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sparseq.errors import require, unknown_name, warn
from sparseq.nn.carry_over import carry_over
from sparseq.nn.computed import copy_model, declared_class, plain_layer
from sparseq.nn.encoder_paths import use_layers_of_encoders
from sparseq.nn.inference.chain import unchain_sequentials
from sparseq.nn.layer_types import check_module, nearest_type, swap_types, type_of
from sparseq.nn.ties import tie, untying

Rule = Callable[[str, nn.Module], nn.Module | None]
_log = logging.getLogger("sparseq")


def replace_modules(
    model: nn.Module, rule: Rule, op: str = "replace_modules", *, keep_ties: bool = True
) -> nn.Module:
    """A deep copy of a model in which some modules are replaced.

    Shared modules and tied parameters stay shared; a new module gets the mode of the old one, its
    hooks, and the attributes, tensors and modules that a user added to it. Modules are kept, with
    one warning, whose replacement would change the function or untie a weight: those with a
    `forward` of their own as an attribute, and those that share their weight with a module that is
    not replaced.

    Args:
        model: any module; it is not modified. The root itself may be replaced.
        rule: called once for every module, with its name (its first one if it is shared) and the
            module, without what it computes (`sparseq.nn.computed.plain_layer`); returns the module
            that replaces it everywhere, or None to keep a copy.
        op: operation named in warnings.
        keep_ties: whether to keep modules whose replacement would untie a weight.

    Returns:
        The new model; it shares no tensor with the old one unless the rule does so.
    """
    check_module(op, model)
    replaced, kept = _replacements(model, rule)
    ties = untying(model, replaced) if keep_ties else {}
    kept |= {path: f"it shares its weight with {other}" for path, other in ties.items()}
    replaced = {path: pair for path, pair in replaced.items() if path not in ties}
    memo: dict[int, Any] = {
        id(model.get_submodule(path)): new for path, (_, new) in replaced.items()
    }
    result = copy_model(model, memo)
    if keep_ties:
        tie(replaced, memo)
    lost = {path: carry_over(old, new, memo) for path, (old, new) in replaced.items()}
    notes = [f"{path or 'the model'} is kept, as {reason}" for path, reason in kept.items()]
    notes += [f"{path} was replaced without its {', '.join(n)}" for path, n in lost.items() if n]
    if notes:
        warn(op, "; ".join(notes))
    use_layers_of_encoders(result)
    return result


def _replacements(
    model: nn.Module, rule: Rule
) -> tuple[dict[str, tuple[nn.Module, nn.Module]], dict[str, str]]:
    """Path -> (old module, new module); path -> why one that the rule would replace is kept."""
    replaced: dict[str, tuple[nn.Module, nn.Module]] = {}
    kept: dict[str, str] = {}
    inside: set[int] = set()  # of a replaced module
    for path, module in model.named_modules():
        plain = plain_layer(module) if type_of(declared_class(module)) else module
        new = None if id(module) in inside else rule(path, plain)
        if new is None:
            continue
        if "forward" in vars(module):
            kept[path] = "it has a forward of its own"
            continue
        new.train(module.training)
        replaced[path] = plain, new
        inside.update(id(child) for child in module.modules())
    return replaced, kept


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
    dense = replace_modules(model, lambda _, module: dense_twin(module), "to_dense")
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

    return replace_modules(model, rule, "swap")


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
