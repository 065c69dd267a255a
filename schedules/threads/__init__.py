"""Kernels written thread by thread: one dialect, for CUDA and for the CPU."""
