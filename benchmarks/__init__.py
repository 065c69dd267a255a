"""Benchmarks: the networks, what they are fed, and what they are timed against."""
