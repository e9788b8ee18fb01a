"""L0: the operators, one file each. Importing them builds and loads nothing."""

from sparseq.ops import hamilton, sddmm, sparse_hamilton, spmm

__all__ = ["hamilton", "sddmm", "sparse_hamilton", "spmm"]
