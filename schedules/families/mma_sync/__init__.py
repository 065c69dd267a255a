"""Implicit GEMM on mma.sync, sums split among warps and blocks."""
