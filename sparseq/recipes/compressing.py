"""How recipes compress their networks: for batches of the data set that they were trained on."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sparseq.compression.choice import Choice
from sparseq.compression.sparsify import compress
from sparseq.data import DataBundle, Split
from sparseq.pruning import Mask

Policy = Literal["measured", "auto", "sparse"]


def compressed(
    model: nn.Module, mask: Mask, policy: Policy, data: DataBundle, batch: int
) -> nn.Module:
    """`compress` for forward passes of `batch` examples, on the run's device and threads.

    Args:
        model: the trained network.
        mask: of its weights.
        policy: "measured" on the validation split, or as in `compress`.
        data: what it was trained on.
        batch: examples per pass.
    """
    if policy == "measured":
        return compress(model, mask, policy, example=examples(data.validation, batch))
    return compress(model, mask, policy, batch=batch, in_shape=data.in_shape)


def dense_reasons(small: nn.Module) -> dict[str, str]:
    """Path -> reason, of the layers that `compress` left dense though weights were dropped."""
    choice = getattr(small, "compression", None)
    verdicts = choice.verdicts if isinstance(choice, Choice) else {}
    return {path: v.reason for path, v in verdicts.items() if v.is_dense and v.density < 1}


def examples(split: Split, batch: int) -> Tensor:
    """(batch, ...) the first examples of a split, repeated if it has fewer."""
    x, _ = next(iter(split.batches(batch)))
    repeated: Tensor = x.repeat(-(-batch // len(x)), *[1] * (x.dim() - 1))
    return repeated[:batch]
