"""Triton kernels, one file per operator; installed as sparseq.triton_kernels.

A kernel enters KERNELS under its operator's name and takes the operator's arguments.
"""

from __future__ import annotations

from collections.abc import Callable

from sparseq.triton_kernels.hamilton import hamilton, hamilton_dw, hamilton_dx
from torch import Tensor

KERNELS: dict[str, Callable[..., Tensor]] = {
    "hamilton": hamilton,
    "hamilton_dx": hamilton_dx,
    "hamilton_dw": hamilton_dw,
}
