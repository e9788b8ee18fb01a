"""Rows of results as tables: in the terminal, in the README and in NOTES.md."""
