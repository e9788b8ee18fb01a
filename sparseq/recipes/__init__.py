"""Recipes: experiments, the only place that composes stages.

To add one, register a dataclass in a new file here and import that file below.
"""

from sparseq.recipes import iterative, lottery, one_shot, train_dense
from sparseq.recipes.experiment import RECIPES, Experiment
from sparseq.recipes.iterative import Iterative
from sparseq.recipes.lottery import Lottery
from sparseq.recipes.one_shot import OneShot
from sparseq.recipes.results import Level, Results
from sparseq.recipes.train_dense import Train

__all__ = [
    "RECIPES",
    "Experiment",
    "Iterative",
    "Lottery",
    "OneShot",
    "Train",
    "Level",
    "Results",
    "iterative",
    "lottery",
    "one_shot",
    "train_dense",
]
