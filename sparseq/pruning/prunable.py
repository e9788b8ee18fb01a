"""Which parameters may be pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import UninitializedParameter

from sparseq.errors import argument_error, require
from sparseq.nn.layer_types import LayerType, nearest_type, weight_parameters
from sparseq.nn.sparse.patterned import PatternedLayer
from sparseq.ops._inputs import check_dense


def prunable_parameters(
    model: nn.Module, exclude: str | Iterable[str] = ()
) -> dict[str, nn.Parameter]:
    """Weights of linear, convolution and quaternion layers, in the order of the modules.

    Biases and normalization parameters are never included. A weight shared by several modules is
    counted once, under its name in `model.named_parameters()`.

    Args:
        model: any module.
        exclude: parameter names, module names or patterns of either ("features.*"), or the
            rules "@first", "@last" (the first and last prunable layer) and "@shortcut"
            (layers whose name contains "shortcut" or "downsample"). A sparse layer is named by
            its parameter `values`.

    Returns:
        Parameter name -> parameter; may be empty.

    Raises:
        ValueError: an entry of `exclude` that matches nothing, an uninitialized lazy layer, or a
            layer that is already sparse and not excluded.
    """
    weights = candidate_weights(model)
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    excluded = {name for pattern in patterns for name in _matching(pattern, list(weights))}
    included = {name: entry for name, entry in weights.items() if name not in excluded}
    sparse = [
        f"{name.rpartition('.')[0] or 'the model'} ({type(module).__name__})"
        for name, (_, module) in included.items()
        if isinstance(module, PatternedLayer)
    ]
    rule = "must have dense layers (convert sparse ones with sparseq.to_dense, or exclude them)"
    require(not sparse, "prune", "model", rule, ", ".join(sparse))
    return {name: weight for name, (weight, _) in included.items()}


def quaternion_names(model: nn.Module) -> set[str]:
    """Names of the prunable weights (4, ...) whose first dimension is the components r, i, j, k."""
    return {name for name, entry in entries_of(model) if entry.quaternion}


def entries_of(model: nn.Module) -> list[tuple[str, LayerType]]:
    """Names of the prunable weights with the entries of their layers in the registry."""
    types = ((name, nearest_type(type(m))) for name, (_, m) in candidate_weights(model).items())
    return [(name, entry) for name, entry in types if entry is not None]


def candidate_weights(model: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Module]]:
    """Name -> (weight, layer) of prunable layers, excluded or not, and of sparse layers."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights: dict[str, tuple[nn.Parameter, nn.Module]] = {}
    for path, module in model.named_modules():
        for weight in weight_parameters(module):
            lazy = isinstance(weight, UninitializedParameter)
            require(not lazy, "prune", "model", "must be initialized", f"the lazy layer {path!r}")
            check_dense("prune", names[id(weight)], weight)
            weights.setdefault(names[id(weight)], (weight, module))
    return weights


def _shortcuts(names: list[str]) -> list[str]:
    return [name for name in names if "shortcut" in name or "downsample" in name]


EXCLUDE_RULES: dict[str, Callable[[list[str]], list[str]]] = {
    "@first": lambda names: names[:1],
    "@last": lambda names: names[-1:],
    "@shortcut": _shortcuts,
}


def _matching(pattern: str, names: list[str]) -> list[str]:
    if pattern in EXCLUDE_RULES:
        matched = EXCLUDE_RULES[pattern](names)
    else:
        matched = [name for name in names if _matches(name, pattern)]
    if not matched:
        valid = ", ".join([*names, *EXCLUDE_RULES])
        raise argument_error("prune", "exclude", f"must match one of: {valid}", repr(pattern))
    return matched


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)
