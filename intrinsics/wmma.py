"""The WMMA instructions: warp-wide matrix multiply-add, the same from Volta on."""

from __future__ import annotations

from intrinsics.record import TensorIntrinsic

#: "wmma.mma.sync": shapes, dtypes and the first target that has each.
PTX_ISA = (
    "https://docs.nvidia.com/cuda/parallel-thread-execution/"
    "#warp-level-matrix-instructions-wmma-mma"
)

INTRINSICS: tuple[TensorIntrinsic, ...] = tuple(
    TensorIntrinsic("wmma", m, n, 16, "float16", accumulator, min_sm=70, source=PTX_ISA)
    for accumulator in ("float32", "float16")
    for m, n in ((16, 16), (32, 8), (8, 32))
)


def get(m: int, n: int, k: int, accumulator_dtype: str = "float32") -> TensorIntrinsic:
    """The instruction of that shape. Raises ``LookupError`` that lists those there are."""
    for intrinsic in INTRINSICS:
        shape = (intrinsic.m, intrinsic.n, intrinsic.k)
        if shape == (m, n, k) and intrinsic.accumulator_dtype == accumulator_dtype:
            return intrinsic
    known = ", ".join(intrinsic.name for intrinsic in INTRINSICS)
    raise LookupError(f"no instruction m{m}n{n}k{k} accumulating in {accumulator_dtype}: {known}")
