"""Tuning: the configurations of a convolution, measured; what was found, kept in records."""
