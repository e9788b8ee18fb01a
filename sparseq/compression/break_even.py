"""Which layers run faster sparse: the measured break-even densities, read for a layer.

A kind of layer that policy "auto" of `compress` shall judge is one entry in MEASURED.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sparseq.compression.thresholds import STEPS, thresholds
from sparseq.nn.quaternion.conv import QConv1d, QConv2d, QConv3d
from sparseq.nn.quaternion.linear import QLinear

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, QConv1d, QConv2d, QConv3d)
QUATERNION = (QLinear, QConv1d, QConv2d, QConv3d)
# rows of the table of break-even densities: weights kept one by one, and whole: the components of
# a quaternion, or the kernel between two channels. The braces stand for 1x1 or, where a kernel has
# several places, 3x3
MEASURED: dict[type[nn.Module], tuple[str, str]] = {
    nn.Linear: ("Linear", "Linear"),
    QLinear: ("QLinear by component", "QLinear by quaternion"),
    **dict.fromkeys(CONVOLUTIONS[:3], ("Conv2d {}", "Conv2d {} by slice")),
    **dict.fromkeys(CONVOLUTIONS[3:], ("QConv2d {} by component", "QConv2d {} by quaternion")),
}


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

    Measured on a CPU, for the threads that torch has now (bench/sweep.py); what lies between the
    measured sizes, batches and maps takes the lower one of its neighbors, and threads that were
    not measured the lowest of those that were. Stride and groups are not looked at.

    Args:
        kind: the dense layer's type, a key of MEASURED.
        shape: of its weight.
        batch: rows of x at a call, images for a convolution.
        whole: quaternions, or kernels between two channels, are kept or dropped whole.
        training: count forward and backward, not the forward pass alone.
        positions: a convolution's output positions for one image, height times width; where they
            are not given, the worst of the measured ones count (`MapThresholds.limit`).
    """
    measured = thresholds(row_of(kind, shape, whole), STEPS[training], torch.get_num_threads())
    limits = [table.limit(math.prod(shape), batch, positions) for table in measured]
    return min(limits, default=0.0)


def is_measured(
    kind: type[nn.Module], shape: tuple[int, ...], whole: bool = False, training: bool = False
) -> bool:
    """Whether `break_even` goes by measurements; it is 0 for a kind of layer without any."""
    name = row_of(kind, shape, whole)
    return bool(thresholds(name, STEPS[training], torch.get_num_threads()))


def row_of(kind: type[nn.Module], shape: tuple[int, ...], whole: bool) -> str:
    """Name of the measurements that stand for a layer."""
    return MEASURED[kind][whole].format("1x1" if taps_of(kind, shape) == 1 else "3x3")


def taps_of(kind: type[nn.Module], shape: tuple[int, ...]) -> int:
    """Places of the kernel of a weight of that shape; 1 for a linear layer."""
    return math.prod(shape[3 if kind in QUATERNION else 2 :])


def keeps_whole(kind: type[nn.Module], keep: Tensor) -> bool:
    """Whether a mask keeps or drops quaternions, (4, m, k, ...), or kernels, (m, k, ...), whole."""
    if kind in QUATERNION:
        return bool((keep == keep[:1]).all())
    several = taps_of(kind, tuple(keep.shape)) > 1
    return several and bool((keep.flatten(2) == keep.flatten(2)[..., :1]).all())


def density_of(keep: Tensor) -> float:
    """Fraction of True; 1 for an empty tensor."""
    return int(keep.count_nonzero()) / keep.numel() if keep.numel() else 1.0
