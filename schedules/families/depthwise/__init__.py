"""Depthwise convolutions on CUDA cores or a CPU."""
