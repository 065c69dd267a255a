"""Volta's tensor cores, one WMMA in its steps. NumPy only, many tiles at once.

``fragments`` maps lanes and registers to elements, ``hmma`` computes each of the 16 (or 8)
instructions, ``timing`` gives their cycles. ``gemm`` multiplies whole matrices through them, and
``listing`` prints one WMMA.
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
