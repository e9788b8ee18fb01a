"""L0: the operators, one file each. Importing them neither builds nor loads a library."""

from sparseq.ops import (
    block_mm,
    feature_sum,
    hamilton,
    hamilton_conv,
    max_pool,
    quaternion_norm,
    quaternion_whiten,
    sddmm,
    sparse_conv,
    sparse_conv_chain,
    sparse_hamilton,
    spmm,
    spmm_chain,
)
from sparseq.ops._backend import KERNEL_LOADERS, Kernels

__all__ = [
    "block_mm",
    "feature_sum",
    "hamilton",
    "hamilton_conv",
    "max_pool",
    "quaternion_norm",
    "quaternion_whiten",
    "sddmm",
    "sparse_conv",
    "sparse_conv_chain",
    "sparse_hamilton",
    "spmm",
    "spmm_chain",
]


def _triton_kernels() -> Kernels:
    from sparseq.triton_kernels import KERNELS

    kernels: Kernels = KERNELS
    return kernels


KERNEL_LOADERS["triton"] = _triton_kernels
