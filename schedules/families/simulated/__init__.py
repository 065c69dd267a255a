"""Convolutions on a simulated tensor core."""
