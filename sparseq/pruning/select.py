"""`select`: turns scores and a density into a mask.

Layers that share one threshold form a group: all layers (scope "global"), each layer separately
("layerwise"), or each layer with its own density (a mapping). Of a group's n weights exactly
round(density n), and at least one, are kept: those with the largest scores. Ties are resolved by
position: the earlier entry is kept (parameters in their order, entries in row-major order).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from sparseq.errors import argument_error, check_fraction, require, unknown_name
from sparseq.formats import check_mask
from sparseq.pruning.floors import checked_floors, floor_of
from sparseq.pruning.mask import Mask

SCOPES = ["global", "layerwise"]

Scores = Mapping[str, Tensor]


def select(
    scores: Scores,
    density: float,
    *,
    scope: str | Mapping[str, float] = "global",
    within: Mapping[str, Tensor] | None = None,
    quaternions: Collection[str] = (),
    keep_at_least: int | Mapping[str, int] = 0,
) -> Mask:
    """Keep the weights with the largest scores, in time linear in the number of weights.

    Args:
        scores: parameter name -> real scores of the weight's shape, larger = keep.
        density: fraction of all scored weights to keep, in (0, 1].
        scope: "global" (one threshold), "layerwise" (`density` of each layer), or parameter
            name -> density of that layer in [0, 1]; layers it does not name get `density`.
        within: parameter name -> bool; weights it drops stay dropped, parameters it does not name
            are unrestricted. `density` still counts all weights.
        quaternions: names of weights (4, ...) whose four components are kept or dropped together,
            scored by their root mean square (which is comparable to the score of a single
            weight). A group of such weights only keeps exactly round(density n / 4) quaternions.
        keep_at_least: weights to keep in each layer, whatever the threshold, or a mapping with
            the numbers for "layer", "row" (each output: the first dimension of a weight) or both;
            the best ones, and all of a layer or row that has fewer. They count towards the density.

    Returns:
        The mask, on the device of the scores.

    Raises:
        ValueError: no scores, a density outside its range, an unknown scope or layer, NaN scores
            (except where `within` drops), a `within` that keeps too few weights, or more weights to
            keep at least than the density allows.
    """
    floors = checked_floors(keep_at_least)
    require(len(scores) > 0, "select", "scores", "must name at least one parameter", "none")
    check_density(density, scope)
    allowed = {name: _allowed(name, score, within) for name, score in scores.items()}
    # a dtype that represents every score exactly, so that equal scores are true ties
    exact = not quaternions and all(score.dtype == torch.float32 for score in scores.values())
    real = {
        name: score.detach().to(torch.float32 if exact else torch.float64)
        for name, score in scores.items()
    }
    keep: dict[str, Tensor] = {}
    for names, fraction in _groups(scores, density, scope):
        group = [_units(name, real[name], allowed[name], name in quaternions) for name in names]
        forced = [floor_of(units.scores, units.allowed, units.size, floors) for units in group]
        _check_floors(names, group, forced, fraction)
        for units, chosen in zip(group, forced, strict=True):
            units.scores = units.scores.masked_fill(chosen, torch.inf)
        keep |= dict(zip(names, _select_group(names, group, fraction), strict=True))
    return Mask({name: keep[name] for name in scores})


def check_density(density: float, scope: str | Mapping[str, float] = "global") -> None:
    """ValueError unless the density, and each density of a mapping, is in range."""
    check_fraction("prune", "density", density)
    for name, value in scope.items() if isinstance(scope, Mapping) else ():
        require(0 <= value <= 1, "prune", f"density of {name!r}", "must lie in [0, 1]", value)


def _groups(
    scores: Scores, density: float, scope: str | Mapping[str, float]
) -> list[tuple[list[str], float]]:
    names = list(scores)
    if isinstance(scope, Mapping):
        for name in scope:
            if name not in scores:
                raise unknown_name("prunable parameter in scope", name, names)
        return [([name], scope.get(name, density)) for name in names]
    if scope not in SCOPES:
        raise unknown_name("scope", scope, [*SCOPES, "or a mapping from parameter to density"])
    return [(names, density)] if scope == "global" else [([name], density) for name in names]


def _allowed(name: str, score: Tensor, within: Mapping[str, Tensor] | None) -> Tensor:
    if within is None or name not in within:
        return torch.ones_like(score, dtype=torch.bool)
    check_mask("select", f"within[{name!r}]", within[name], tuple(score.shape))
    return within[name].to(score.device)


def _check_floors(
    names: list[str], group: list[_Units], forced: list[Tensor], density: float
) -> None:
    least = sum(int(c.sum()) * u.size for u, c in zip(group, forced, strict=True))
    counts = _unit_counts(names, group, density) if least else {}
    most = sum(size * count for size, count in counts.items())
    where = names[0] if len(names) == 1 else f"all {len(names)} layers"
    rule = f"must ask for at most the {most} weights that the density keeps in {where}"
    require(least <= most, "prune", "keep_at_least", rule, least)


class _Units:
    """The units of one parameter that are kept or dropped: single weights, or quaternions."""

    def __init__(self, scores: Tensor, allowed: Tensor, size: int) -> None:
        self.scores, self.allowed, self.size = scores, allowed, size

    def candidates(self) -> Tensor:
        """Scores of the units that may be kept, one-dimensional."""
        return self.scores[self.allowed]


def _units(name: str, score: Tensor, allowed: Tensor, quaternion: bool) -> _Units:
    if quaternion:
        shape = tuple(score.shape)
        require(
            shape[:1] == (4,), "prune", f"scores of {name!r}", "must have shape (4, ...)", shape
        )
        score, allowed = torch.linalg.vector_norm(score, dim=0) / 2, allowed.all(0)
    has_nan = bool(score.isnan().logical_and_(allowed).any())
    require(not has_nan, "prune", f"scores of {name!r}", "must not be NaN where kept", "NaN")
    return _Units(score, allowed, 4 if quaternion else 1)


def _select_group(names: list[str], group: list[_Units], density: float) -> list[Tensor]:
    """Masks of the weights' shapes, from one threshold for the group."""
    counts = _unit_counts(names, group, density)
    keep: dict[int, Tensor] = {}
    for size, count in counts.items():
        members = [index for index, units in enumerate(group) if units.size == size]
        masks = _keep_largest([group[index] for index in members], count)
        keep |= dict(zip(members, masks, strict=True))
    return [_widen(keep[index], units.size) for index, units in enumerate(group)]


def _widen(keep: Tensor, size: int) -> Tensor:
    return keep if size == 1 else keep.expand(size, *keep.shape)


def _unit_counts(names: list[str], group: list[_Units], density: float) -> dict[int, int]:
    """How many units of each size (1 or 4 weights) the group keeps."""
    sizes = {units.size for units in group}
    step = 4 if sizes == {4} else 1
    total = sum(units.scores.numel() * units.size for units in group) // step
    wanted = max(round(density * total), min(total, 1)) if density > 0 else 0
    available = sum(int(units.allowed.sum()) * units.size for units in group) // step
    where = names[0] if len(names) == 1 else f"all {len(names)} layers"
    rule = f"must be at most what `within` keeps, {available} of {total} in {where}"
    require(wanted <= available, "prune", "density", rule, f"{density} ({wanted})")
    return {step: wanted} if len(sizes) == 1 else _split_budget(group, wanted)


def _split_budget(group: list[_Units], wanted: int) -> dict[int, int]:
    """Share `wanted` weights between quaternions and single weights by their common threshold."""
    quads = _flat([units.candidates() for units in group if units.size == 4])
    singles = _flat([units.candidates() for units in group if units.size == 1])
    if wanted == 0:
        return {1: 0, 4: 0}
    threshold = kth_largest(torch.cat([quads.repeat(4), singles]), wanted)
    count = int((quads > threshold).sum())
    remaining = wanted - 4 * count - int((singles > threshold).sum())
    count += min(int((quads == threshold).sum()), remaining // 4)
    # a remainder below one quaternion is filled with the next best single weights; if there are
    # too few of them, one more quaternion replaces some
    short = wanted - 4 * count - singles.numel()
    count += 1 if max(4 - short - singles.numel(), 0) < short else 0
    return {4: count, 1: max(min(wanted - 4 * count, singles.numel()), 0)}


def _keep_largest(group: list[_Units], count: int) -> list[Tensor]:
    """Exactly `count` units of the group: those above the threshold, then ties by position."""
    if count == 0:
        return [torch.zeros_like(units.allowed) for units in group]
    threshold = kth_largest(_flat([units.candidates() for units in group]), count)
    keep = [units.allowed & (units.scores > threshold) for units in group]
    remaining = count - sum(int(kept.sum()) for kept in keep)
    for kept, units in zip(keep, group, strict=True):
        ties = (units.allowed & (units.scores == threshold)).flatten().nonzero().flatten()
        ties = ties[:remaining]
        kept.view(-1)[ties] = True
        remaining -= ties.numel()
    return keep


def _flat(parts: list[Tensor]) -> Tensor:
    """One vector, on the first part's device."""
    return torch.cat([part.to(parts[0].device) for part in parts])


def kth_largest(values: Tensor, k: int) -> float:
    """The k-th largest entry (k = 1 is the maximum) of a vector without NaN, in linear time."""
    index = values.numel() - k
    if not 0 <= index < values.numel():
        raise argument_error("kth_largest", "k", f"must lie in 1..{values.numel()}", k)
    if values.is_cuda:
        return float(values.kthvalue(index + 1).values)
    # numpy's introselect is linear on sorted input too, where torch's quickselect is quadratic
    return float(np.partition(values.numpy(), index)[index])
