"""The forms into which `compress` may convert a layer, by name; the dense layer is the baseline.

A new form is a function in a file of its own under `@CANDIDATES.register("<name>")`, and its import
in `sparseq.compression.measured`: policy "measured" then times it beside the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sparseq.nn.layer_types import sparse_type
from sparseq.registry import Registry

# (layer, bool tensor of its weight's shape, True = keep) -> the layer in that form, or None
Candidate = Callable[[nn.Module, Tensor], nn.Module | None]
CANDIDATES: Registry[Candidate] = Registry("form of a layer")
DENSE, SPARSE = "dense", "sparse"


@CANDIDATES.register(SPARSE)
def convert(module: nn.Module, keep: Tensor) -> nn.Module:
    """The sparse twin of a layer that has one (`sparse_type`); `keep` as in `compress`."""
    entry = sparse_type(type(module))
    assert entry is not None
    layer: Any = entry.layer
    twin: nn.Module = layer.from_dense(module, keep)
    return twin
