"""Parameters that several modules share, such as the weight of a head tied to an embedding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import nn

from sparseq.nn.layer_types import weight_parameters

Replacements = Mapping[str, tuple[nn.Module, nn.Module]]


def untying(model: nn.Module, replaced: Replacements) -> dict[str, str]:
    """Path of a layer whose replacement would untie its weight -> the path that shares it.

    A weight stays shared if all modules that have it are replaced by modules of one type.

    Args:
        model: the model.
        replaced: path -> (old layer with its weight, new layer).
    """
    users: dict[int, list[str]] = defaultdict(list)
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            users[id(parameter)].append(path)

    def untied_from(path: str) -> list[str]:
        old, new = replaced[path]
        sharing = [other for weight in weight_parameters(old) for other in users[id(weight)]]
        return [p for p in sharing if p not in replaced or type(replaced[p][1]) is not type(new)]

    others = {path: untied_from(path) for path in replaced}
    return {path: paths[0] for path, paths in others.items() if paths}


def tie(replaced: Replacements, memo: dict[int, Any]) -> None:
    """Share between new layers, and with the copy of the rest, what the old layers shared.

    Args:
        replaced: path -> (old layer, new layer).
        memo: id of an object -> its copy, of the deep copy to which the new layers belong; biases
            of new layers are added.
    """
    first: dict[tuple[int, ...], nn.Module] = {}
    for old, new in replaced.values():
        weights = tuple(id(parameter) for parameter in weight_parameters(old))
        other = first.setdefault(weights, new) if weights else new
        names = {id(p): name for name, p in new._parameters.items()}
        pairs = zip(weight_parameters(new), weight_parameters(other), strict=True)
        for parameter, shared in pairs:
            new._parameters[names[id(parameter)]] = shared
        _tie_bias(old, new, memo)


def _tie_bias(old: nn.Module, new: nn.Module, memo: dict[int, Any]) -> None:
    """Use the copy of the old bias if the model's other modules have it too."""
    bias = old._parameters.get("bias")
    if bias is not None and new._parameters.get("bias") is not None:
        new._parameters["bias"] = memo.setdefault(id(bias), new._parameters["bias"])
