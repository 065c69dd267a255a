"""Passes over the graph, in `pipeline` in their order."""
