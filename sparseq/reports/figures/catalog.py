"""The registry of figures."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from sparseq.registry import Registry

# a figure is a function of its data that returns a matplotlib Figure, neither shown nor saved
FIGURES: Registry[Callable[..., Figure]] = Registry("figure")
