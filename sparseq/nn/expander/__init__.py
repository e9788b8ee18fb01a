"""Expander layers: weights on the edges of a graph that is stored as its seed."""
