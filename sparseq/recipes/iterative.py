"""Iterative pruning without rewinding: pass 1 of Iqbal & Mishra 2023."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparseq.recipes.experiment import RECIPES
from sparseq.recipes.rounds.run import PruningRounds


@RECIPES.register("iterative")
@dataclass(frozen=True, kw_only=True)
class Iterative(PruningRounds):
    """Train, prune, continue training, round by round, real and quaternion.

    Every round continues from the weights of the previous one, in the batch order of one long
    training; the optimizer's moments are reset in every round.
    """

    recipe: ClassVar[str] = "iterative"

    def first_epoch(self, number: int) -> int:
        """See PruningRounds."""
        return number * self.training.epochs

    def start(
        self, rewound: Mapping[str, Tensor], final: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """See PruningRounds."""
        return final
