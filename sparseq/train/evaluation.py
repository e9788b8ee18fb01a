"""Loss and accuracy of a model on a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.data import Split
from sparseq.errors import require
from sparseq.nn.convert import device_of

LossFn = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Metrics:
    """Mean loss per example, and the fraction of examples that are classified correctly.

    The accuracy is NaN for models that do not output a tensor of scores, such as an autoencoder.
    """

    loss: float
    accuracy: float


def evaluate(
    model: nn.Module, split: Split, batch_size: int = 1000, loss_fn: LossFn = F.cross_entropy
) -> Metrics:
    """Mean loss and accuracy over a split, in evaluation mode; restores the model's modes.

    Args:
        model: maps (batch, ...) to (batch, classes), or to other outputs that loss_fn accepts.
        split: at least one example; moved to the model's device.
        batch_size: examples at a time.
        loss_fn: loss_fn(outputs, y) -> mean over the batch.

    Raises:
        ValueError: an empty split.
    """
    require(len(split) > 0, "evaluate", "split", "must have at least one example", "none")
    split = split.to(device_of(model))
    loss = torch.zeros((), dtype=torch.float64, device=split.x.device)
    correct = torch.zeros((), dtype=torch.float64, device=split.x.device)
    with torch.no_grad(), evaluating(model):
        for x, y in split.batches(batch_size):
            outputs = model(x)
            loss += loss_fn(outputs, y) * len(x)
            has_scores = isinstance(outputs, Tensor)
            correct += (outputs.argmax(1) == y).sum() if has_scores else math.nan
    return Metrics(loss.item() / len(split), correct.item() / len(split))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; restores the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
