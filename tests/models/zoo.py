"""Which models there are, and how each is tested quickly."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch

from sparseq.models import MODELS, algebras_of, build

LARGE = 2_500_000  # parameters; the smaller members of a family are tested in full


def takes(name: str, argument: str) -> bool:
    """Whether the builder of a model has that argument."""
    return argument in inspect.signature(MODELS.get(name)).parameters


@functools.cache
def parameter_count(name: str, algebra: str = "real", **arguments: Any) -> int:
    """Of a model that holds no data."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, algebra, **arguments).parameters())


@functools.cache
def quick_shape(name: str) -> tuple[int, ...]:
    """A small image if the model takes one, else the usual one."""
    try:
        with torch.device("meta"):
            build(name, in_shape=(1, 8, 8))
    except ValueError:
        return tuple(build(name).recipe["kwargs"]["in_shape"])
    return (1, 8, 8)


EVERY = [(name, algebra) for name in MODELS.names() for algebra in algebras_of(name)]
CLASSIFIERS = [(name, algebra) for name, algebra in EVERY if takes(name, "num_classes")]
QUICK = [pair for pair in CLASSIFIERS if parameter_count(*pair) < LARGE]
