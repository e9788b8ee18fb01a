"""Which parameters may be pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import UninitializedParameter

from sparseq.errors import argument_error, require
from sparseq.nn.layer_types import nearest_type, weight_parameters
from sparseq.nn.sparse.patterned import PatternedLayer


def prunable_parameters(
    model: nn.Module, exclude: str | Iterable[str] = ()
) -> dict[str, nn.Parameter]:
    """Weights of linear, convolution and quaternion layers, in the order of the modules.

    Biases and normalization are never among them. A weight that several modules share is counted
    once, under its name in `model.named_parameters()`.

    Args:
        model: any module.
        exclude: parameter names, module names or patterns of either ("features.*"), or the
            rules "@first", "@last" (the first and last prunable layer) and "@shortcut"
            (layers whose name contains "shortcut" or "downsample"). Sparse layers may be named,
            by their `values`.

    Returns:
        Parameter name -> parameter; may be empty.

    Raises:
        ValueError: an entry of `exclude` that matches nothing, an uninitialized lazy layer, or a
            layer that is sparse already and not excluded.
    """
    found = _weights(model)
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    dropped = {name for pattern in patterns for name in _matching(pattern, list(found))}
    left = {name: entry for name, entry in found.items() if name not in dropped}
    sparse = [
        f"{name.rpartition('.')[0] or 'the model'} ({type(module).__name__})"
        for name, (_, module) in left.items()
        if isinstance(module, PatternedLayer)
    ]
    rule = "must have dense layers (sparseq.to_dense makes sparse ones dense, exclude passes over)"
    require(not sparse, "prune", "model", rule, ", ".join(sparse))
    return {name: weight for name, (weight, _) in left.items()}


def quaternion_names(model: nn.Module) -> set[str]:
    """Names of the prunable weights (4, ...) that hold the components r, i, j, k."""
    types = {name: nearest_type(type(module)) for name, (_, module) in _weights(model).items()}
    return {name for name, known in types.items() if known is not None and known.quaternion}


def _weights(model: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Module]]:
    """Name -> weight and layer, of prunable layers and of those that are sparse already."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights: dict[str, tuple[nn.Parameter, nn.Module]] = {}
    for path, module in model.named_modules():
        for weight in weight_parameters(module):
            lazy = isinstance(weight, UninitializedParameter)
            require(not lazy, "prune", "model", "must be initialized", f"the lazy layer {path!r}")
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
        matched = [name for name in names if _fits(name, pattern)]
    if not matched:
        valid = ", ".join([*names, *EXCLUDE_RULES])
        raise argument_error("prune", "exclude", f"must match one of: {valid}", repr(pattern))
    return matched


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)
