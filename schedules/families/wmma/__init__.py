"""Implicit GEMM on WMMA, in tensor expressions: `wmma_packed` and `wmma_nhwc`."""
