"""L6: what a model costs and what a run reached, as tables and figures."""
