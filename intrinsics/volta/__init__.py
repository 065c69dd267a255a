"""Volta's tensor cores, one WMMA taken apart: NumPy only, any number of tiles at once.

``fragments`` says which lane holds which element in which register, ``hmma`` what each of the 16
(or 8) instructions computes, ``timing`` when it is done; ``gemm`` sends whole matrix products
through them, and ``listing`` prints one WMMA.
"""

from intrinsics.volta.fragments import (
    ACCUMULATOR_F16,
    ACCUMULATOR_F32,
    A,
    B,
    FragmentError,
    load,
    store,
)
from intrinsics.volta.gemm import matmul
from intrinsics.volta.hmma import (
    PROGRAM_F16,
    PROGRAM_F32,
    Fused,
    Instruction,
    Program,
    State,
    program,
    run,
    step,
    wmma,
)
from intrinsics.volta.listing import trace
from intrinsics.volta.touches import Place, Touch, touches

__all__ = [
    "ACCUMULATOR_F16",
    "ACCUMULATOR_F32",
    "PROGRAM_F16",
    "PROGRAM_F32",
    "A",
    "B",
    "FragmentError",
    "Fused",
    "Instruction",
    "Place",
    "Program",
    "State",
    "Touch",
    "load",
    "matmul",
    "program",
    "run",
    "step",
    "store",
    "touches",
    "trace",
    "wmma",
]
