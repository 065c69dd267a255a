"""The WMMA instructions: warp-wide matrix multiply-add, the same API since Volta.

An operand lives in a *fragment*: registers spread over the lanes, in an order that is not
specified. So a fragment is only filled, loaded, multiplied and stored as a whole.
"""

from __future__ import annotations

from intrinsics.dtypes import BF16, FP16, FP32, INT8, INT32, UINT8
from intrinsics.record import CPU_ONLY, TensorIntrinsic

#: PTX ISA, "wmma.mma.sync": shapes, dtypes and the first target of each.
PTX_ISA = (
    "https://docs.nvidia.com/cuda/parallel-thread-execution/"
    "#warp-level-matrix-instructions-wmma-mma"
)
#: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, "VPDPBUSD": products of
#: unsigned and signed bytes.
INTEL_SDM = "https://www.intel.com/content/www/us/en/developer/articles/technical/intel-sdm.html"
#: Types of A and B, accumulator type, and the lowest compute capability that has them.
DTYPES = (
    (FP16, FP16, FP32, 70), (FP16, FP16, FP16, 70), (BF16, BF16, FP32, 80),
    (INT8, INT8, INT32, 72), (UINT8, UINT8, INT32, 72),
    # WMMA multiplies equal types only. Of these a CPU does four steps along k in one instruction.
    (UINT8, INT8, INT32, CPU_ONLY),
)  # fmt: skip

INTRINSICS: tuple[TensorIntrinsic, ...] = tuple(
    TensorIntrinsic(
        "wmma" if min_sm < CPU_ONLY else "emulated", m, n, 16, a.name, b.name, accumulator.name,
        min_sm=min_sm, source=PTX_ISA if min_sm < CPU_ONLY else INTEL_SDM,
        a_scope="wmma.matrix_a", b_scope="wmma.matrix_b", accumulator_scope="wmma.accumulator",
    )
    for a, b, accumulator, min_sm in DTYPES
    for m, n in ((16, 16), (32, 8), (8, 32))
)  # fmt: skip

#: Dtypes of A and B.
Operands = tuple[str, str]
HALVES: Operands = (FP16.name, FP16.name)


def get(
    m: int, n: int, k: int, operands: Operands = HALVES, accumulator: str = FP32.name
) -> TensorIntrinsic:
    """Returns an instruction by shape and dtypes. Raises ``LookupError``, which lists them all."""
    for intrinsic in INTRINSICS:
        if (intrinsic.m, intrinsic.n, intrinsic.k) == (m, n, k) and _multiplies(
            intrinsic, operands, accumulator
        ):
            return intrinsic
    known = ", ".join(intrinsic.name for intrinsic in INTRINSICS)
    what = f"{' x '.join(operands)} into {accumulator}"
    raise LookupError(f"no instruction m{m}n{n}k{k} of {what}: {known}")


def min_sm(operands: Operands, accumulator: str) -> int | None:
    """Returns the lowest compute capability that has these dtypes, as 80 for sm_80, or None.

    `CPU_ONLY` if no GPU has them, but the emulation on a CPU.
    """
    found = [i.min_sm for i in INTRINSICS if _multiplies(i, operands, accumulator)]
    return min(found, default=None)


def _multiplies(intrinsic: TensorIntrinsic, operands: Operands, accumulator: str) -> bool:
    dtypes = (intrinsic.a_dtype, intrinsic.b_dtype)
    return (dtypes, intrinsic.accumulator_dtype) == (operands, accumulator)
