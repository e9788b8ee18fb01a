"""The plan of a recipe that prunes in rounds: its fields, and what one recipe does otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sparseq.models import ALGEBRAS
from sparseq.models.user_file import accepted
from sparseq.pruning import CRITERIA, SCHEDULES
from sparseq.recipes.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class RoundsPlan(Experiment):
    """Train, then `rounds` times: prune `rate` of what is left, and train again."""

    algebras: tuple[Literal["real", "quaternion"], ...] = ("real", "quaternion")
    """Networks to compare; the first is the 100 % of the figure."""
    trials: int = 3
    """Seeds per network; the table shows mean and standard deviation."""
    rounds: int = 18
    """Rounds of pruning after the first training."""
    rate: float = 0.2
    """Fraction of the remaining weights that a round removes."""
    schedule: str = "geometric"
    """geometric (rounds of `rate`), or one_shot: as much in a single round."""
    criterion: str = "magnitude"
    """Score by which weights are kept."""
    scope: Literal["global", "layerwise"] = "global"
    """One threshold for the network, or one density for each layer."""
    granularity: Literal["component", "quaternion"] = "component"
    """Prune quaternion weights component by component, or whole."""
    exclude: tuple[str, ...] = ()
    """Parameters never pruned (names or patterns)."""
    mask: Literal["scored", "random"] = "scored"
    """Control: 'random' keeps each layer's density but draws the positions."""
    stop_accuracy: float = 0.0
    """End a trial after two rounds in a row below this validation accuracy (0..1)."""
    measure_batch: int = 256
    """Examples per forward pass when latency is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("trials", "measure_batch"):
            self.check(getattr(self, name) >= 1, name, "must be at least 1")
        self.check(self.rounds >= 0, "rounds", "must be 0 or more")
        self.check(0 < self.rate < 1, "rate", "must lie between 0 and 1")
        self.check(0 <= self.stop_accuracy <= 1, "stop_accuracy", "must lie in 0..1")
        distinct = 0 < len(self.algebras) == len(set(self.algebras))
        self.check(
            distinct and set(self.algebras) <= set(ALGEBRAS),
            "algebras",
            f"must be different ones of: {', '.join(ALGEBRAS)}",
        )
        CRITERIA.get(self.criterion)
        SCHEDULES.get(self.schedule)

    def densities(self) -> list[float]:
        """Fraction of the prunable weights kept in rounds 0, 1, ...

        A schedule takes those of `rounds`, `rate` and the `density` they come to that it names.
        """
        if not self.rounds:
            return [1.0]
        schedule, density = SCHEDULES.get(self.schedule), (1 - self.rate) ** self.rounds
        given = {"rounds": self.rounds, "rate": self.rate, "density": density}
        return [1.0, *schedule(**accepted(schedule, given))]

    def rewind_step(self, steps_per_epoch: int) -> int:
        """Step of the first training whose weights are kept for rewinding."""
        return 0

    def first_epoch(self, number: int) -> int:
        """Epoch of the batch order that round `number` starts with."""
        return 0

    def init_parts(self, number: int) -> tuple[int | str, ...]:
        """What the initialization of round `number` is derived from, beside seed and trial."""
        return ()

    def start(
        self, rewound: Mapping[str, Tensor], final: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor] | None:
        """Weights a round after the first starts from; None: a fresh initialization.

        Args:
            rewound: weights at the rewind step of the first training.
            final: weights at the end of the round before.
        """
        raise NotImplementedError
