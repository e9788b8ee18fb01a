"""Short descriptions of many parameters of a model, for warnings of one line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from torch import nn

from sparseq.nn.computed import declared_class


def described(model: nn.Module, names: Iterable[str]) -> str:
    """Parameters by class and attribute: "in_proj_weight of 12 MultiheadAttention (layers.0, ...)".

    Args:
        model: the model.
        names: of parameters, as in `model.named_parameters(remove_duplicate=False)`.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        path, _, attribute = name.rpartition(".")
        groups[attribute, declared_class(model.get_submodule(path)).__name__].append(path)
    return ", ".join(_group(*group, paths) for group, paths in groups.items())


def _group(attribute: str, kind: str, paths: list[str]) -> str:
    if len(paths) == 1:
        return f"{paths[0]}.{attribute} ({kind})" if paths[0] else f"{attribute} ({kind})"
    return f"{attribute} of {len(paths)} {kind} ({paths[0]}, ...)"
