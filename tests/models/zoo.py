"""All models with their algebras, and small versions of them for quick tests."""

from __future__ import annotations

import functools
from typing import Any

import torch

from sparseq.models import MODELS, algebras_of, build, classifies

LARGE = 2_500_000  # parameters; the smaller members of a family are tested in full


@functools.cache
def parameter_count(name: str, algebra: str = "real", **arguments: Any) -> int:
    """Number of parameters of a model, counted without allocating it."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, algebra, **arguments).parameters())


@functools.cache
def quick_shape(name: str) -> tuple[int, ...]:
    """The shape of a small image if the model supports it, else the default shape."""
    try:
        with torch.device("meta"):
            build(name, in_shape=(1, 8, 8))
    except ValueError:
        return tuple(build(name).recipe["kwargs"]["in_shape"])
    return (1, 8, 8)


EVERY = [(name, algebra) for name in MODELS.names() for algebra in algebras_of(name)]
CLASSIFIERS = [(name, algebra) for name, algebra in EVERY if classifies(name)]
QUICK = [pair for pair in CLASSIFIERS if parameter_count(*pair) < LARGE]
