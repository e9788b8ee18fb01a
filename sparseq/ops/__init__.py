"""L0: the operators, one file each. Importing them builds and loads nothing."""

from sparseq.ops import (
    block_mm,
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

__all__ = [
    "block_mm",
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
