"""The earlier systems' own classes, on the machinery of this package."""

from sparseq.compat.pruning_wrapper import PruningWrapper

__all__ = ["PruningWrapper"]
