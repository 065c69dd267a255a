"""Benchmarks: networks, their inputs, and the programs they are compared with."""
