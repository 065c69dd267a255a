"""The WMMA instructions: warp-wide matrix multiply-add, the same API since Volta.

An operand lives in a *fragment*: registers spread over the lanes, in an order that is not
specified. So a fragment is only filled, loaded, multiplied and stored as a whole.
"""

from __future__ import annotations

from intrinsics.dtypes import BF16, FP16, FP32
from intrinsics.record import TensorIntrinsic

#: PTX ISA, "wmma.mma.sync": shapes, dtypes and the first target of each.
PTX_ISA = (
    "https://docs.nvidia.com/cuda/parallel-thread-execution/"
    "#warp-level-matrix-instructions-wmma-mma"
)
#: Operand type, accumulator type, and the lowest compute capability that has them.
DTYPES = ((FP16, FP32, 70), (FP16, FP16, 70), (BF16, FP32, 80))

INTRINSICS: tuple[TensorIntrinsic, ...] = tuple(
    TensorIntrinsic(
        "wmma", m, n, 16, operand.name, operand.name, accumulator.name, min_sm=min_sm,
        source=PTX_ISA, a_scope="wmma.matrix_a", b_scope="wmma.matrix_b",
        accumulator_scope="wmma.accumulator",
    )
    for operand, accumulator, min_sm in DTYPES
    for m, n in ((16, 16), (32, 8), (8, 32))
)  # fmt: skip


def get(
    m: int, n: int, k: int, operand: str = FP16.name, accumulator: str = FP32.name
) -> TensorIntrinsic:
    """Returns an instruction by shape and dtypes. Raises ``LookupError``, which lists them all."""
    for intrinsic in INTRINSICS:
        shape = (intrinsic.m, intrinsic.n, intrinsic.k)
        dtypes = (intrinsic.a_dtype, intrinsic.accumulator_dtype)
        if shape == (m, n, k) and dtypes == (operand, accumulator):
            return intrinsic
    known = ", ".join(intrinsic.name for intrinsic in INTRINSICS)
    raise LookupError(f"no instruction m{m}n{n}k{k} of {operand} into {accumulator}: {known}")


def min_sm(operand: str, accumulator: str) -> int | None:
    """Returns the lowest compute capability that has these dtypes, as 80 for sm_80, or None."""
    found = [
        i.min_sm for i in INTRINSICS if (i.a_dtype, i.accumulator_dtype) == (operand, accumulator)
    ]
    return min(found, default=None)
