"""Lottery tickets: prune, rewind the remaining weights to early values, train again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sparseq.recipes.experiment import RECIPES
from sparseq.recipes.rounds.run import PruningRounds


@RECIPES.register("lottery")
@dataclass(frozen=True, kw_only=True)
class Lottery(PruningRounds):
    """Train, prune, rewind the remaining weights, round by round, real and quaternion.

    Every round starts from the weights of step `rewind` of the first training: 0 is the
    initialization (Frankle & Carbin 2019), later steps are late resetting (Frankle et al. 2019).
    Controls: `reinit="random"` draws new initial weights for every round, `mask="random"` draws
    the positions of the kept weights.
    """

    recipe: ClassVar[str] = "lottery"

    rewind: int = 0
    """Step or epoch of the first training to rewind to; 0 is the initialization."""
    rewind_unit: Literal["step", "epoch"] = "epoch"
    """What `rewind` counts."""
    reinit: Literal["original", "random"] = "original"
    """Control: 'random' starts every round from new initial weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.rewind >= 0, "rewind", "must be 0 or more")
        if self.rewind_unit == "epoch":
            self.check(
                self.rewind <= self.training.epochs,
                "rewind",
                f"must lie within the {self.training.epochs} epochs of a round",
            )

    def rewind_step(self, steps_per_epoch: int) -> int:
        """See PruningRounds."""
        step = self.rewind * (steps_per_epoch if self.rewind_unit == "epoch" else 1)
        last = self.training.epochs * steps_per_epoch
        self.check(step <= last, "rewind", f"must lie within the {last} steps of a round")
        return step

    def init_parts(self, number: int) -> tuple[int | str, ...]:
        """See PruningRounds."""
        return ("round", number) if self.reinit == "random" and number else ()

    def start(
        self, rewound: Mapping[str, Tensor], final: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor] | None:
        """See PruningRounds."""
        return None if self.reinit == "random" else rewound
