"""Magnitude: the weights closest to zero are pruned first."""

from __future__ import annotations

from sparseq.pruning.criteria.context import CRITERIA, ScoreContext, Scores


@CRITERIA.register("magnitude")
def magnitude(context: ScoreContext) -> Scores:
    """score = |w|. Source: Han et al. 2015, "Learning both Weights and Connections"."""
    return {name: weight.detach().abs() for name, weight in context.parameters.items()}
