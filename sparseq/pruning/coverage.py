"""What a mask leaves out and which layers it empties, said in one line each."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from sparseq.errors import warn
from sparseq.nn.computed import is_computed
from sparseq.nn.parameter_names import described

SHOWN = 8  # names of layers in a warning
COMPUTED = (
    "; weights computed from others become prunable by torch.nn.utils.prune.remove, "
    "remove_weight_norm or parametrize.remove_parametrizations"
)


def warn_of_gaps(
    op: str, model: nn.Module, keep: Mapping[str, Tensor], considered: Collection[str]
) -> None:
    """Warn of weights that pruning does not support.

    Weights are parameters with two or more dimensions, without those of normalizations.

    Args:
        op: operation named in the warning.
        model: the model.
        keep: its mask.
        considered: names of its prunable parameters, excluded ones among them.
    """
    left = [name for name in _weights(model) if name not in considered]
    if not left:
        return
    total = sum(parameter.numel() for parameter in model.parameters())
    covered = sum(kept.numel() for kept in keep.values())
    text = f"covers {covered:,} of {total:,} parameters ({covered / total:.1%})"
    remedy = COMPUTED if any(is_computed(module) for module in model.modules()) else ""
    warn(op, f"{text}; not prunable: {described(model, left)}{remedy}")


def warn_of_empty_layers(op: str, keep: Mapping[str, Tensor], intended: Collection[str]) -> None:
    """Warn of layers of which a mask keeps nothing, though that was not asked for."""
    empty = [
        name
        for name, kept in keep.items()
        if kept.numel() and name not in intended and not bool(kept.any())
    ]
    if empty:
        more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
        names = ", ".join(empty[:SHOWN]) + more
        text = f"keeps no weight in {len(empty)} of {len(keep)} layers ({names})"
        warn(op, f"{text}; use keep_at_least=, scope='layerwise' or a higher density")


def _weights(model: nn.Module) -> list[str]:
    """Names of all weights of a model, each once."""
    normalizations = {
        id(parameter)
        for module in model.modules()
        if "Norm" in type(module).__name__
        for parameter in module._parameters.values()
    }
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and id(parameter) not in normalizations
    ]
