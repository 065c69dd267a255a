"""Implicit GEMM on Hopper's warpgroup instruction, fed by the copy engine."""
