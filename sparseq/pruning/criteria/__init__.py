"""Criteria: functions that score weights, larger = keep.

To add one, register a function in a new file here and import that file below.
"""

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
