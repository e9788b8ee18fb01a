"""Whole layers, networks, recipes: one file per suite of cases."""
