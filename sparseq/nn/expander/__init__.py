"""Expander layers: weights on the edges of a graph, which is stored as its name and seed."""
