"""A convolution as data: workload, layouts, epilogue, and its implicit GEMM in numbers."""
