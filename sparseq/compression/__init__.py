"""L4: a pruned model as one that holds and computes only the kept weights."""

from sparseq.compression.sparsify import compress

__all__ = ["compress"]
