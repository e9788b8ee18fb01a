"""Criteria score, larger = keep. A new one is a file here with a registered function, and its
import below."""

from sparseq.pruning.criteria import magnitude, random
from sparseq.pruning.criteria.context import (
    CRITERIA,
    Batches,
    Criterion,
    Loss,
    ScoreContext,
    Scores,
)

__all__ = [
    "CRITERIA",
    "Batches",
    "Criterion",
    "Loss",
    "ScoreContext",
    "Scores",
    "magnitude",
    "random",
]
