"""Implicit GEMM on mma.sync, with the reduction split among warps and blocks."""
