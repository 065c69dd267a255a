"""Tensor-core instructions as data: one record per instruction, and its readers.

``record`` says what an instruction is, ``wmma`` lists those there are, ``emulate`` gives the
meaning of one in NumPy, and ``lower`` -- the only file here that speaks to TVM -- gives its
CUDA form and its CPU emulation.
"""

from intrinsics.record import TensorIntrinsic
from intrinsics.wmma import INTRINSICS, get

__all__ = ["INTRINSICS", "TensorIntrinsic", "get"]
