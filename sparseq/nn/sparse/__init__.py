"""Sparse layers: only kept weights take memory, also in gradients and optimizer states."""
