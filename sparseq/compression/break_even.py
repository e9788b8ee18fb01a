"""Which layers run faster sparse: the measured break-even densities, read for a layer.

A layer names its rows of the table beside its class (`LayerType.break_even`): one for weights kept
one by one, and one for weights kept whole, the components of a quaternion or the kernel between two
channels. Braces in them stand for 1x1 or, where a kernel has several places, 3x3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sparseq.compression.thresholds import STEPS, MapThresholds, thresholds
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
    """Density up to which a layer is no slower sparse; 0 if it always is.

    Measured on a CPU, for the threads that torch has now (bench/break_even_sweep.py); what lies between the
    measured sizes, batches and maps takes the lower one of its neighbors, and threads that were
    not measured the lowest of those that were. Stride and groups are not looked at.

    Args:
        kind: the dense layer's type.
        shape: of its weight.
        batch: rows of x at a call, images for a convolution.
        whole: quaternions, or kernels between two channels, are kept or dropped whole.
        training: count forward and backward, not the forward pass alone.
        positions: a convolution's output positions for one image, height times width; where they
            are not given, the worst of the measured ones count (`MapThresholds.limit`).
    """
    tables = _tables(kind, shape, whole, training)
    return min((table.limit(math.prod(shape), batch, positions) for table in tables), default=0.0)


def is_measured(
    kind: type[nn.Module], shape: tuple[int, ...], whole: bool = False, training: bool = False
) -> bool:
    """Whether `break_even` goes by measurements; it is 0 for a kind of layer without any."""
    return bool(_tables(kind, shape, whole, training))


def _tables(
    kind: type[nn.Module], shape: tuple[int, ...], whole: bool, training: bool
) -> tuple[MapThresholds, ...]:
    row = row_of(kind, shape, whole)
    return thresholds(row, STEPS[training], torch.get_num_threads()) if row else ()


def row_of(kind: type[nn.Module], shape: tuple[int, ...], whole: bool) -> str:
    """Name of the measurements that stand for a layer; "" where there are none."""
    known = sparse_type(kind)
    if known is None or known.break_even is None:
        return ""
    return known.break_even[whole].format("1x1" if taps_of(kind, shape) == 1 else "3x3")


def taps_of(kind: type[nn.Module], shape: tuple[int, ...]) -> int:
    """Places of the kernel of a weight of that shape; 1 for a linear layer."""
    return math.prod(shape[3 if _is_quaternion(kind) else 2 :])


def keeps_whole(kind: type[nn.Module], keep: Tensor) -> bool:
    """Whether a mask keeps or drops quaternions, (4, m, k, ...), or kernels, (m, k, ...), whole."""
    if _is_quaternion(kind):
        return bool((keep == keep[:1]).all())
    several = taps_of(kind, tuple(keep.shape)) > 1
    return several and bool((keep.flatten(2) == keep.flatten(2)[..., :1]).all())


def is_convolution(module: nn.Module) -> bool:
    """Whether a module has a sparse twin whose cost depends on the size of its map."""
    return hasattr(module, "kernel_size") and sparse_type(type(module)) is not None


def _is_quaternion(kind: type[nn.Module]) -> bool:
    known = type_of(kind)
    return known is not None and known.quaternion


def density_of(keep: Tensor) -> float:
    """Fraction of True; 1 for an empty tensor."""
    return int(keep.count_nonzero()) / keep.numel() if keep.numel() else 1.0
