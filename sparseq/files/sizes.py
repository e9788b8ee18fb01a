"""What a model file may take in memory: checked before it is allocated.

A file of a few bytes can declare tensors, layers and graphs of any size. Before a layer is built it
is therefore built on the meta device, where it takes no memory, and each of its tensors compared
with the one that the file stores for it; what a file need not store (zeros, the transpose of a
pattern, a graph that is drawn) is bounded by a limit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.files.modules import Spec, build_module, is_layer
from sparseq.files.tensors import pattern_names
from sparseq.formats import CSRPattern

ALWAYS = 2**30  # bytes that every file may take
EXPANSION = 100  # times its size that a file may take: a layer at 1 % density, stored without zeros
Shapes = dict[str, tuple[int, ...]]


def memory_limit(path: str | os.PathLike[str], max_bytes: int | None) -> int:
    """`max_bytes`; by default 1 GiB or 100 times the size of the file, the larger of the two."""
    if max_bytes is None:
        return max(ALWAYS, EXPANSION * Path(path).stat().st_size)
    is_count = isinstance(max_bytes, int) and not isinstance(max_bytes, bool) and max_bytes >= 0
    require(is_count, "load", "max_bytes", "must be a number of bytes", repr(max_bytes))
    return max_bytes


def declared_shapes(
    manifest: Mapping[str, Any], stored: Mapping[str, Tensor], limit: int
) -> Shapes:
    """Shape of every tensor of the state, before any is decoded; without the column ids.

    Raises:
        ValueError: the tensors take more than `limit` bytes when their zeros are put back.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    for path, rows in manifest["patterns"].items():
        row_ptr, col_idx = pattern_names(path)
        shapes[row_ptr] = (rows + 1,)
        shapes.pop(col_idx)
    for name, entry in manifest["zeros"].items():
        shapes[name] = tuple(entry["shape"])
    zeros = sum(prod(shapes[name]) * stored[name].element_size() for name in manifest["zeros"])
    _require_within(limit, zeros, "the tensors stored without their zeros")
    return shapes | {
        name: shapes[source] for name, source in manifest["aliases"].items() if source in shapes
    }


def check_layers(specs: Mapping[str, Spec], shapes: Shapes, limit: int) -> None:
    """Check that the layers of a file, once built, are no larger than what the file stores.

    Raises:
        ValueError: a layer's tensor has more entries than the file's of that name, all layers
            together take more than `limit` bytes, or the arguments of a layer are not valid.
    """
    total = 0
    for path, spec in specs.items():
        layer = _on_meta(path, spec) if is_layer(spec) else None
        if layer is not None:
            total += checked_size(layer, f"{path}." if path else "", shapes)
            _require_within(limit, total, "the layers")


def checked_size(model: nn.Module, prefix: str, shapes: Shapes) -> int:
    """Bytes of all tensors of a module; ValueError if one has more entries than the file's."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        shape = shapes.get(prefix + name)
        fits = shape is None or tensor.numel() <= prod(shape)
        rule = f"must have shape {tuple(tensor.shape)}, as its module has"
        require(fits, "load", f"tensor {prefix + name!r}", rule, shape)
    patterns = [getattr(module, "pattern", None) for module in model.modules()]
    lists = [pattern.tensors for pattern in patterns if isinstance(pattern, CSRPattern)]
    tensors = (*model.parameters(), *model.buffers(), *chain.from_iterable(lists))
    return sum(tensor.nbytes for tensor in tensors)


def require_within(limit: int, model: nn.Module, shapes: Shapes) -> None:
    """`checked_size` of a complete model, which must be at most `limit`."""
    _require_within(limit, checked_size(model, "", shapes), "the model")


def _on_meta(path: str, spec: Spec) -> nn.Module | None:
    """The layer on the meta device; None if its constructor needs data."""
    try:
        with torch.device("meta"):
            return build_module(path, spec)
    except ValueError as error:
        cause = error.__cause__
        if isinstance(cause, RuntimeError) or "meta" in str(cause):
            return None  # if there is another reason, building the layer raises it again
        raise


def _require_within(limit: int, size: int, what: str) -> None:
    rule = f"must take at most {limit:,} bytes in memory (pass max_bytes to allow more)"
    require(size <= limit, "load", what, rule, f"{size:,}")
