"""The inputs of a criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparseq.errors import argument_error
from sparseq.registry import Registry

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ScoreContext:
    """The arguments of every criterion.

    Attributes:
        model: the network; a criterion must not change its weights, buffers, gradients or mode
            (run a deep copy instead).
        parameters: name -> prunable parameter of the model; exactly these are scored.
        batches: (inputs, targets) pairs, iterated once, or None.
        loss_fn: (outputs, targets) -> scalar loss.
        generator: the only source of randomness, on the CPU.
        quaternions: names of the parameters (4, ...) whose four components are pruned together.
    """

    model: nn.Module
    parameters: Mapping[str, Tensor]
    batches: Batches | None = None
    loss_fn: Loss = nn.functional.cross_entropy
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    quaternions: frozenset[str] = frozenset()

    def data(self, criterion: str) -> Batches:
        """The batches; ValueError, naming the criterion, if there are none."""
        if self.batches is None:
            rule = "must be given, as the scores depend on data"
            raise argument_error(criterion, "batches", rule, None)
        return self.batches


Scores = dict[str, Tensor]
Criterion = Callable[[ScoreContext], Scores]
CRITERIA: Registry[Criterion] = Registry("criterion")
