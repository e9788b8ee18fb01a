"""Which parameters may be pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from sparseq.errors import argument_error, require
from sparseq.nn.sparse.patterned import PatternedLayer

# Layer types whose `weight` is prunable; quaternion layers are known by `granularities`.
PRUNABLE_TYPES: tuple[type[nn.Module], ...] = (nn.Linear, _ConvNd)


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
    return {
        name
        for name, (_, module) in _weights(model).items()
        if "quaternion" in getattr(module, "granularities", ())
    }


def _weights(model: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Module]]:
    """Name -> weight and layer, of prunable layers and of those that are sparse already."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[nn.Parameter, nn.Module]] = {}
    for path, module in model.named_modules():
        name = "values" if isinstance(module, PatternedLayer) else "weight"
        weight = module._parameters.get(name) if _is_prunable(module) else None
        if weight is None:
            continue
        lazy = isinstance(weight, UninitializedParameter)
        require(not lazy, "prune", "model", "must be initialized", f"the lazy layer {path!r}")
        found.setdefault(names[id(weight)], (weight, module))
    return found


def _is_prunable(module: nn.Module) -> bool:
    known = isinstance(module, (*PRUNABLE_TYPES, PatternedLayer))
    return known or hasattr(module, "granularities")


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
