"""`prune`: criterion and selection in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require, unknown_name
from sparseq.formats import check_masks
from sparseq.pruning.coverage import warn_of_empty_layers, warn_of_gaps
from sparseq.pruning.criteria import CRITERIA, Batches, Loss, ScoreContext, Scores
from sparseq.pruning.mask import Mask
from sparseq.pruning.prunable import candidate_weights, prunable_parameters, quaternion_names
from sparseq.pruning.select import check_density, select
from sparseq.seeds import derived_generator

GRANULARITIES = ["component", "quaternion"]


def prune(
    model: nn.Module,
    criterion: str = "magnitude",
    *,
    density: float = 0.1,
    scope: str | Mapping[str, float] = "global",
    exclude: str | Iterable[str] = (),
    granularity: str = "component",
    batches: Batches | None = None,
    loss_fn: Loss | None = None,
    seed: int = 0,
    within: Mapping[str, Tensor] | None = None,
    keep_at_least: int | Mapping[str, int] = 0,
) -> Mask:
    """The mask that keeps the best `density` of the prunable weights; the model is not changed.

    Args:
        model: any module; the weights of its Linear, Conv and quaternion layers are prunable.
        criterion: name of the score, see `sparseq.pruning.CRITERIA`.
        density: fraction of the prunable weights to keep, in (0, 1]; exact to one weight.
        scope: "global", "layerwise" or {parameter name: density}, see `select`.
        exclude: names or patterns of layers to leave out of the mask, see
            `prunable_parameters`; they do not count towards the density.
        granularity: "component" (each weight separately) or "quaternion" (the four components of
            a quaternion weight together; other weights separately).
        batches: iterable of (inputs, targets), for criteria that need data.
        loss_fn: (outputs, targets) -> scalar; cross-entropy by default.
        seed: for all random numbers of the criterion.
        within: an earlier mask; the weights it drops stay dropped.
        keep_at_least: weights to keep in each layer (16) or each output ({"row": 1}), see `select`.

    Returns:
        A `Mask` over the prunable parameters. Weights that are not prunable (of recurrent layers,
        embeddings, attention's joint projection, or computed ones) are named in a warning, as are
        layers of which nothing is kept.

    Raises:
        ValueError: an unknown name, a value out of range, a model without prunable weights or
            with sparse layers not named in `exclude`, NaN scores, a `within` that keeps too few
            weights for the density, or a `keep_at_least` that asks for more than it.
    """
    score = CRITERIA.get(criterion)
    check_density(density, scope)
    if granularity not in GRANULARITIES:
        raise unknown_name("granularity", granularity, GRANULARITIES)
    parameters = _parameters(model, exclude)
    if within is not None:
        check_masks("prune", "within", within, dict(model.named_parameters(remove_duplicate=False)))
    by_quaternion = granularity == "quaternion"
    quaternions = quaternion_names(model) & parameters.keys() if by_quaternion else set()
    context = ScoreContext(
        model,
        parameters,
        batches,
        loss_fn or F.cross_entropy,
        derived_generator("criterion", criterion, seed),
        frozenset(quaternions),
    )
    scores = _checked(criterion, score(context), parameters)
    mask = select(
        scores,
        density,
        scope=scope,
        within=within,
        quaternions=quaternions,
        keep_at_least=keep_at_least,
    )
    warn_of_gaps("prune", model, mask, candidate_weights(model))
    emptied = [name for name, value in _densities(scope).items() if value == 0]
    warn_of_empty_layers("prune", mask, emptied)
    return mask


def _densities(scope: str | Mapping[str, float]) -> Mapping[str, float]:
    return scope if isinstance(scope, Mapping) else {}


def _parameters(model: nn.Module, exclude: str | Iterable[str]) -> dict[str, nn.Parameter]:
    rule = "must be a module with weights of Linear, Conv or quaternion layers"
    require(isinstance(model, nn.Module), "prune", "model", rule, type(model).__name__)
    parameters = prunable_parameters(model, exclude)
    got = f"{type(model).__name__} without prunable weights"
    require(len(parameters) > 0, "prune", "model", rule, got)
    return parameters


def _checked(criterion: str, scores: Scores, parameters: Mapping[str, Tensor]) -> Scores:
    """The scores, in the order of the parameters; ValueError if one is missing or misshapen."""
    for name, weight in parameters.items():
        shape = tuple(weight.shape)
        got = tuple(scores[name].shape) if name in scores else None
        require(got == shape, criterion, f"scores of {name!r}", f"must have shape {shape}", got)
    return {name: scores[name] for name in parameters}
