"""A convolution as data: its workload, layouts, epilogue, and implicit GEMM."""
