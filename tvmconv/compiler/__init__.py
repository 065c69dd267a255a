"""`build` and `inspect`: from a model to an executable or a report."""
