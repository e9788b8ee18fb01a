"""sparseq: small and fast pruned, expander-structured and quaternion PyTorch networks."""

from sparseq._version import __version__
