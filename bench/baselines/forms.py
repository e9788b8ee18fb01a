"""Forms of one baseline, of which the quickest runs in the race."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.timing import fastest

Call = Callable[[], Any]
BEST = "best dense fp32"
# dense fp32 as users call it, whatever a row is of; a row set has one of them
CALLED = ("nn.Linear fp32", "nn.Conv2d fp32", "F.linear fp32", "F.conv2d fp32", "dense fp32")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@dataclass(frozen=True)
class Form:
    """One form of a baseline: a call, and the name by which a row says which form it was."""

    name: str
    call: Call

    def __call__(self) -> Any:
        """Run it."""
        return self.call()


def quickest(forms: Mapping[str, Call]) -> Form:
    """The quickest of several forms."""
    name = fastest(forms)
    return Form(name, forms[name])


def with_best(name: str, called: Form, others: Mapping[str, Call]) -> dict[str, Form]:
    """Two sides of a race: the call users make, and the quickest of it and other dense forms."""
    best = quickest({called.name: called, **others}) if others else called
    return {name: called, BEST: called if best.name == called.name else best}


def in_layouts(make: Callable[[torch.memory_format], Call]) -> Form:
    """The quicker of torch's two memory layouts of images."""
    return quickest({name: make(layout) for name, layout in LAYOUTS.items()})


def inference(model: nn.Module, x: Tensor) -> Call:
    """A call without gradients."""

    def call() -> Tensor:
        with torch.no_grad():
            return model(x)

    return call
