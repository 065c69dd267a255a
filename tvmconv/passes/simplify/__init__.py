"""Passes over the graph before convolutions are looked for."""
