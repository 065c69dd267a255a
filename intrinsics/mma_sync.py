"""The mma.sync instructions: operands in registers whose contents are specified, from Ampere on.

Unlike a WMMA fragment, which the hardware orders as it likes, each register of each lane holds
elements that are written down here. So operands can come from anywhere, and sums can go straight
from registers to where they belong.
"""

from __future__ import annotations

from dataclasses import replace

from intrinsics.record import TensorIntrinsic

#: "mma": shapes, dtypes, the first target that has each, and which lane holds which element.
PTX_ISA = (
    "https://docs.nvidia.com/cuda/parallel-thread-execution/"
    "#warp-level-matrix-fragment-mma-16816-float"
)
PTX_ISA_K8 = PTX_ISA.replace("16816-float", "1688")

M16N8K16 = TensorIntrinsic(
    "mma_sync", 16, 8, 16, "float16", "float32", min_sm=80, source=PTX_ISA,
    a_scope="local", b_scope="local", accumulator_scope="local",
)  # fmt: skip

#: All with 16 rows and 8 columns: both depths, fp16 and bf16. The operands of the lesser depth are
#: the lower half of the other's registers. PTX ISA, "mma", says from which target on.
INSTRUCTIONS = (
    M16N8K16,
    replace(M16N8K16, accumulator_dtype="float16"),
    replace(M16N8K16, operand_dtype="bfloat16"),
    replace(M16N8K16, k=8, min_sm=75, source=PTX_ISA_K8),
    replace(M16N8K16, k=8, min_sm=75, source=PTX_ISA_K8, accumulator_dtype="float16"),
    replace(M16N8K16, k=8, source=PTX_ISA_K8, operand_dtype="bfloat16"),
)

#: The name of the first in PTX, and those of the loads of 16 x 16 halves from shared memory that
#: fill its operands: A as it lies there, two Bs side by side turned round.
MMA = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
LOAD_A = "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
LOAD_B = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"


def a_element(lane: int, element: int) -> tuple[int, int]:
    """(m, k) of A that a lane holds; its elements are numbered 0 to 7, two a register."""
    register, low = divmod(element, 2)
    return lane // 4 + register % 2 * 8, lane % 4 * 2 + low + register // 2 * 8


def b_element(lane: int, element: int) -> tuple[int, int]:
    """(k, n) of B that a lane holds; its elements are numbered 0 to 3, two a register."""
    register, low = divmod(element, 2)
    return lane % 4 * 2 + low + register * 8, lane // 4


def c_element(lane: int, element: int) -> tuple[int, int]:
    """(m, n) of the accumulator that a lane holds; one register each, numbered 0 to 3."""
    return lane // 4 + element // 2 * 8, lane % 4 * 2 + element % 2
