"""Triton kernels, one file per operator; installed as sparseq.triton_kernels.

KERNELS lists each kernel under the name of its operator; both accept the same arguments.
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
