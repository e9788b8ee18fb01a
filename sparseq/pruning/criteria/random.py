"""Random: the baseline that every other criterion has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseq.pruning.criteria.context import CRITERIA, ScoreContext, Scores


@CRITERIA.register("random")
def uniform(context: ScoreContext) -> Scores:
    """score ~ U(0, 1), one draw per weight, or per quaternion if its components stay together.

    The scores are the same on every device: they are drawn on the CPU, in float64 to avoid ties.
    """
    return {name: _draw(name, weight, context) for name, weight in context.parameters.items()}


def _draw(name: str, weight: Tensor, context: ScoreContext) -> Tensor:
    shape = (1, *weight.shape[1:]) if name in context.quaternions else weight.shape
    scores = torch.rand(shape, generator=context.generator, dtype=torch.float64)
    return scores.expand(weight.shape).to(weight.device)
