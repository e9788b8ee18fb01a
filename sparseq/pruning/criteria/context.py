"""What a criterion may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.registry import Registry

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ScoreContext:
    """The arguments of every criterion.

    Attributes:
        model: the network; a criterion leaves its weights, buffers, gradients and mode as they
            were (work on a deep copy to run it).
        parameters: name -> prunable parameter of the model; exactly these are to be scored.
        batches: (inputs, targets) pairs, iterated once, or None.
        loss_fn: (outputs, targets) -> scalar loss.
        generator: the only source of randomness, on the CPU.
        quaternions: names of the parameters (4, ...) whose components are pruned together.
    """

    model: nn.Module
    parameters: Mapping[str, Tensor]
    batches: Batches | None = None
    loss_fn: Loss = nn.functional.cross_entropy
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    quaternions: frozenset[str] = frozenset()

    def data(self, criterion: str) -> Batches:
        """The batches; ValueError in the name of the criterion when there are none."""
        require(
            self.batches is not None, criterion, "batches", "must be given: it scores on data", None
        )
        assert self.batches is not None
        return self.batches


Scores = dict[str, Tensor]
Criterion = Callable[[ScoreContext], Scores]
CRITERIA: Registry[Criterion] = Registry("criterion")
