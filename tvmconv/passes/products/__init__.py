"""Products of two computed tensors: found, and lowered to kernels."""
