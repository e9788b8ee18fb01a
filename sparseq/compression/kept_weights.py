"""Which weights of which layers `compress` keeps, and what it has to leave dense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from sparseq.nn.computed import declared_class, plain_layer, torch_mask
from sparseq.nn.layer_types import sparse_type
from sparseq.ops._inputs import check_dense

# fraction of zeros from which a weight that stays dense counts as pruned
PRUNED = 0.5


def kept_by_layer(model: nn.Module, mask: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Path of a candidate layer -> bool tensor of its weight's shape, True = keep.

    Candidates are layers whose class has a sparse twin. Without a mask these are all of them, and
    each keeps what torch.nn.utils.prune keeps or else its weights other than 0.
    """
    layers = dict(_candidates(model))
    if mask is None:
        return {path: _own_mask(layer) for path, layer in layers.items()}
    # by identity, since a weight shared by two layers has only one name
    parameters = model.named_parameters(remove_duplicate=False)
    by_weight = {id(weight): mask[name] for name, weight in parameters if name in mask}
    weights = {path: layer._parameters.get("weight") for path, layer in layers.items()}
    return {
        path: by_weight[id(weight)].to(weight.device)
        for path, weight in weights.items()
        if weight is not None and id(weight) in by_weight
    }


def pruned_but_dense(
    model: nn.Module, mask: Mapping[str, Tensor] | None, keeps: Mapping[str, Tensor]
) -> list[str]:
    """Names of the pruned weights, parameters of two dimensions or more, that stay dense.

    Args:
        model: the dense model.
        mask: as for `compress`; without one, parameters with many zeros count as pruned.
        keeps: the layers that can be converted, by path.
    """
    converted = {id(p) for path in keeps for p in model.get_submodule(path).parameters()}
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            full = f"{path}.{name}" if path else name
            if parameter is None or parameter.dim() < 2 or id(parameter) in converted:
                continue
            if (full in mask) if mask is not None else _is_pruned(parameter):
                names[id(parameter)] = full
    return list(names.values())


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in model.named_modules():
        if sparse_type(declared_class(module)) is not None:
            yield path, module


def _own_mask(layer: nn.Module) -> Tensor:
    mask = torch_mask(layer)
    if mask is not None:
        return mask
    weight: Tensor = plain_layer(layer).weight  # type: ignore[assignment]
    check_dense("compress", "weight", weight)
    return weight.detach() != 0


def _is_pruned(parameter: Tensor) -> bool:
    if parameter.is_meta or not parameter.numel():
        return False
    return int(parameter.count_nonzero()) <= (1 - PRUNED) * parameter.numel()
