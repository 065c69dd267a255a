"""Tensor-core instructions as data: one record per instruction, and its readers.

``dtypes`` lists the element types and ``record`` says what an instruction is. ``wmma``,
``mma_sync`` and ``wgmma`` list the instructions. ``emulate`` gives the meaning of one in NumPy.
``lower`` gives the CUDA form of WMMA and its CPU emulation, for 8-bit integers by ``vnni``; only
these two use TVM.
"""

from intrinsics.record import TensorIntrinsic
from intrinsics.wmma import INTRINSICS, get

__all__ = ["INTRINSICS", "TensorIntrinsic", "get"]
