"""Machines as data, and the predicted time of kernels on them."""
