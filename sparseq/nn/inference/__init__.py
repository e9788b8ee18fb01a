"""Inference only: folded normalizations, and chains of layers that run as one kernel."""
