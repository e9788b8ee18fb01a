"""Pruning: a criterion scores, `select` thresholds, a schedule sets densities, a mask is data."""

from sparseq.pruning.api import GRANULARITIES, prune
from sparseq.pruning.criteria import CRITERIA, ScoreContext
from sparseq.pruning.enforcement import MaskHandle
from sparseq.pruning.mask import Mask
from sparseq.pruning.prunable import prunable_parameters
from sparseq.pruning.schedules import SCHEDULES, geometric, one_shot
from sparseq.pruning.select import SCOPES

__all__ = [
    "CRITERIA",
    "GRANULARITIES",
    "Mask",
    "MaskHandle",
    "SCHEDULES",
    "SCOPES",
    "ScoreContext",
    "geometric",
    "one_shot",
    "prunable_parameters",
    "prune",
]
