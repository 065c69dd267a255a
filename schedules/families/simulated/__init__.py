"""Convolutions whose products a simulated tensor core computes."""
