"""`WatchLoss`: says that a training diverges."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import Tensor

from sparseq.train.callbacks import Callback, TrainState

EXPLODED = 100  # times the loss of the first step


class WatchLoss(Callback):
    """Warns once if training diverges.

    That is, the loss of an epoch is not finite, or 100 times that of the first step. Losses of less
    than 1 count as 1, so that a trained network may get worse for a while.

    Args:
        remedy: what to change, for the warning.
        quiet: do not warn.

    Attributes:
        first: loss of the first step; None before the first epoch.
        diverged: the first epoch that diverged with its loss, as text; empty if none did.
    """

    def __init__(self, remedy: str = "lower the learning rate", quiet: bool = False) -> None:
        self.remedy, self.quiet = remedy, quiet
        self.first: float | None = None
        self.diverged = ""

    def on_epoch_end(self, state: TrainState) -> None:
        """Compare the losses."""
        if self.first is None and state.first_loss is not None:
            self.first = float(state.first_loss)
        loss = state.metrics["loss"]
        first = math.nan if self.first is None else self.first
        limit = EXPLODED * max(1, abs(first))  # EXPLODED, if the first one is not known
        if self.diverged or (math.isfinite(loss) and abs(loss) < limit):
            return
        self.diverged = f"loss {loss:.3g} in epoch {state.epoch}, {first:.3g} in the first step"
        if not self.quiet:
            warnings.warn(f"training diverges ({self.diverged}): {self.remedy}", stacklevel=2)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values for a checkpoint; the inverse of `resume`."""
        known = self.first is not None and math.isfinite(self.first)
        return {}, {**({"first": self.first} if known else {}), "diverged": self.diverged}

    def resume(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from the values that `state` returned."""
        self.first, self.diverged = meta.get("first"), meta["diverged"]
