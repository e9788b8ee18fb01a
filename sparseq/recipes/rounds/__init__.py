"""Recipes that prune in rounds: the plan, one trial, the end of a run, and the run itself."""
