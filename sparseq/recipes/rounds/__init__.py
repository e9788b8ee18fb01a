"""Recipes that prune in rounds: plan, trials, final measurements, and the run itself."""
