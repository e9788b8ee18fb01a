"""L0: the operators, one file each. Importing them builds and loads nothing."""

from sparseq.ops import hamilton, sddmm, spmm

__all__ = ["hamilton", "sddmm", "spmm"]
