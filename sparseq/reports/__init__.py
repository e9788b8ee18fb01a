"""Reports: the cost of a model and the results of a run, as tables and figures."""
