"""Random: the control every other criterion has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseq.pruning.criteria.context import CRITERIA, ScoreContext, Scores


@CRITERIA.register("random")
def uniform(context: ScoreContext) -> Scores:
    """score ~ U(0, 1), one draw per weight, or per quaternion where they are pruned whole.

    The same on every device: drawn on the CPU, in float64 so that ties are out of the question.
    """
    return {name: _draw(name, weight, context) for name, weight in context.parameters.items()}


def _draw(name: str, weight: Tensor, context: ScoreContext) -> Tensor:
    shape = (1, *weight.shape[1:]) if name in context.quaternions else weight.shape
    scores = torch.rand(shape, generator=context.generator, dtype=torch.float64)
    return scores.expand(weight.shape).to(weight.device)
