"""The least number of weights that a mask keeps of every layer, or of every output."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparseq.errors import require, unknown_name

FLOORS = ["layer", "row"]


def checked_floors(keep_at_least: int | Mapping[str, int]) -> dict[str, int]:
    """{"layer": n, "row": n} with the floors that are not 0; ValueError if they are not such."""
    named = keep_at_least if isinstance(keep_at_least, Mapping) else {"layer": keep_at_least}
    floors = dict(named)
    for name, count in floors.items():
        if name not in FLOORS:
            raise unknown_name("key of keep_at_least", name, FLOORS)
        is_count = isinstance(count, int) and not isinstance(count, bool) and count >= 0
        rule = "must be an integer of at least 0"
        require(is_count, "prune", f"keep_at_least[{name!r}]", rule, count)
    return {name: count for name, count in floors.items() if count}


def floor_of(scores: Tensor, allowed: Tensor, size: int, floors: Mapping[str, int]) -> Tensor:
    """Bool tensor of the units that the floors keep: those with the largest scores.

    Args:
        scores: (rows, ...) scores of the units of one layer.
        allowed: of the same shape, the units that may be kept.
        size: weights in a unit.
        floors: as returned by `checked_floors`.
    """
    forced = torch.zeros_like(allowed)
    for name, count in floors.items():
        rows = 1 if name == "layer" or scores.dim() == 0 else scores.shape[0]
        if scores.numel():
            chosen = _largest(
                scores.reshape(rows, -1), allowed.reshape(rows, -1), -(-count // size)
            )
            forced |= chosen.view(forced.shape)
    return forced


def _largest(scores: Tensor, allowed: Tensor, count: int) -> Tensor:
    """The `count` allowed entries of each row with the largest scores, ties by position."""
    order = scores.masked_fill(~allowed, -torch.inf).sort(dim=1, descending=True, stable=True)
    chosen = torch.zeros_like(allowed)
    chosen.scatter_(1, order.indices[:, :count], True)
    return chosen & allowed
