"""Compatibility: interfaces of earlier systems, implemented with sparseq."""

from sparseq.compat.pruning_wrapper import PruningWrapper

__all__ = ["PruningWrapper"]
