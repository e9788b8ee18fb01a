"""The plan of a recipe that prunes in rounds: its fields, and hooks for the differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sparseq.models import ALGEBRAS
from sparseq.models.user_file import accepted
from sparseq.pruning import CRITERIA, SCHEDULES
from sparseq.recipes.compressing import Policy
from sparseq.recipes.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class RoundsPlan(Experiment):
    """Train, then `rounds` times: prune `rate` of the remaining weights and train again."""

    algebras: tuple[Literal["real", "quaternion"], ...] = ("real", "quaternion")
    """Networks to compare; the first one defines 100 % in the figure."""
    trials: int = 3
    """Seeds per network; the table shows mean and standard deviation."""
    rounds: int = 18
    """Rounds of pruning after the first training."""
    rate: float = 0.2
    """Fraction of the remaining weights that a round removes."""
    schedule: str = "geometric"
    """geometric (`rounds` of `rate`), or one_shot (the same final density in a single round)."""
    criterion: str = "magnitude"
    """Criterion that scores the weights; the largest scores are kept."""
    scope: Literal["global", "layerwise"] = "global"
    """One threshold for the network, or the same density in each layer."""
    granularity: Literal["component", "quaternion"] = "component"
    """Prune the components of quaternion weights separately or together."""
    exclude: tuple[str, ...] = ()
    """Parameters never pruned (names or patterns)."""
    mask: Literal["scored", "random"] = "scored"
    """Control: 'random' keeps each layer's density but draws the kept positions."""
    stop_accuracy: float = 0.0
    """End a trial after two consecutive rounds below this validation accuracy (0..1)."""
    measure_batch: int = 256
    """Examples per forward pass when latency is measured."""
    policy: Policy = "measured"
    """measured (each layer in the form that is faster here, so that bytes may differ by run), auto
    (by tables, the same in every run), or sparse (all)."""

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
            f"must be distinct and among: {', '.join(ALGEBRAS)}",
        )
        CRITERIA.get(self.criterion)
        SCHEDULES.get(self.schedule)

    def densities(self) -> list[float]:
        """Fraction of the prunable weights kept in rounds 0, 1, ...

        A schedule gets those of `rounds`, `rate` and `density` (the final one) that it accepts.
        """
        if not self.rounds:
            return [1.0]
        schedule, density = SCHEDULES.get(self.schedule), (1 - self.rate) ** self.rounds
        arguments = {"rounds": self.rounds, "rate": self.rate, "density": density}
        return [1.0, *schedule(**accepted(schedule, arguments))]

    def rewind_step(self, steps_per_epoch: int) -> int:
        """Step of the first training to whose weights later rounds rewind."""
        return 0

    def first_epoch(self, number: int) -> int:
        """Epoch, in the batch order, with which round `number` starts."""
        return 0

    def init_parts(self, number: int) -> tuple[int | str, ...]:
        """Parts of the seed of round `number`'s initialization, besides run seed and trial."""
        return ()

    def start(
        self, rewound: Mapping[str, Tensor], final: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor] | None:
        """Weights from which a round after the first starts; None for a new initialization.

        Args:
            rewound: weights at the rewind step of the first training.
            final: weights at the end of the previous round.
        """
        raise NotImplementedError
