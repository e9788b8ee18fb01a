"""Sparse layers: only the kept weights exist, in memory, gradients and optimizer state."""
