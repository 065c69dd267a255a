"""Regions: convolutions with all that their kernels compute besides. A rule a file."""
