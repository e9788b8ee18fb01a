"""What layers become when they only run: folded normalization, chains that are one kernel."""
