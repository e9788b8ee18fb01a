"""Which layers run faster sparse: lookup of the measured break-even densities of a layer.

A sparse layer class declares its rows of the table (`LayerType.break_even`): one for unstructured
masks, and one for masks that keep or drop whole quaternions or whole kernels between two channels.
Braces in a row's name stand for 1x1 or, if the kernel has several taps, 3x3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sparseq.compression.thresholds import STEPS, MapThresholds, thresholds
from sparseq.nn.computed import declared_class
from sparseq.nn.layer_types import sparse_type, type_of


def break_even(
    kind: type[nn.Module],
    shape: tuple[int, ...],
    batch: int = 64,
    *,
    whole: bool = False,
    training: bool = False,
    positions: int | None = None,
) -> float:
    """Density, 0..1, up to which a layer is no slower sparse than dense; 0 if it is always slower.

    Measured on a CPU, for torch's current number of threads (bench/break_even_sweep.py). Between
    measured sizes, batches and maps the lower neighbor counts; for a number of threads that was not
    measured, the lowest of those that were. Stride and groups are ignored.

    Args:
        kind: the dense layer's type.
        shape: of its weight.
        batch: rows of x per call, images for a convolution.
        whole: whether whole quaternions, or whole kernels between two channels, are kept or
            dropped.
        training: time forward and backward passes instead of forward passes only.
        positions: output positions of a convolution for one image, height times width; if None,
            the worst case of the measured ones (`MapThresholds.limit`).
    """
    tables = _tables(kind, shape, whole, training)
    return min((table.limit(math.prod(shape), batch, positions) for table in tables), default=0.0)


def unmeasured(
    kind: type[nn.Module],
    shape: tuple[int, ...],
    batch: int = 64,
    *,
    whole: bool = False,
    training: bool = False,
    positions: int | None = None,
) -> str:
    """What was not measured, so that `break_even` is 0 for want of knowledge; "" if it was.

    Arguments are those of `break_even`.
    """
    tables = _tables(kind, shape, whole, training)
    if not tables:
        return "layers of its kind"
    reasons = [table.beyond(math.prod(shape), batch, positions) for table in tables]
    return next(filter(None, reasons), "")


def _tables(
    kind: type[nn.Module], shape: tuple[int, ...], whole: bool, training: bool
) -> tuple[MapThresholds, ...]:
    row = row_of(kind, shape, whole)
    return thresholds(row, STEPS[training], torch.get_num_threads()) if row else ()


def row_of(kind: type[nn.Module], shape: tuple[int, ...], whole: bool) -> str:
    """Name of a layer's row in the table; "" if it has none."""
    entry = sparse_type(kind)
    if entry is None or entry.break_even is None:
        return ""
    return entry.break_even[whole].format("1x1" if taps_of(kind, shape) == 1 else "3x3")


def taps_of(kind: type[nn.Module], shape: tuple[int, ...]) -> int:
    """Number of kernel taps of a weight of that shape; 1 for a linear layer."""
    return math.prod(shape[3 if _is_quaternion(kind) else 2 :])


def keeps_whole(kind: type[nn.Module], keep: Tensor) -> bool:
    """Whether a mask keeps or drops whole quaternions, (4, m, k, ...), or kernels, (m, k, ...)."""
    if _is_quaternion(kind):
        return bool((keep == keep[:1]).all())
    if taps_of(kind, tuple(keep.shape)) == 1:
        return False
    return bool((keep.flatten(2) == keep.flatten(2)[..., :1]).all())


def is_convolution(module: nn.Module) -> bool:
    """Whether a module has a sparse twin whose cost depends on the size of its map."""
    return hasattr(module, "kernel_size") and sparse_type(declared_class(module)) is not None


def _is_quaternion(kind: type[nn.Module]) -> bool:
    entry = type_of(kind)
    return entry is not None and entry.quaternion


def density_of(keep: Tensor) -> float:
    """Fraction of True; 1 for an empty tensor."""
    return int(keep.count_nonzero()) / keep.numel() if keep.numel() else 1.0
