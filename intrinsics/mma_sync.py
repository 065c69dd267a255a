"""The mma.sync instructions, whose operands lie in registers in a specified order.

WMMA fragments are opaque. Here PTX specifies which element each register of each lane holds. So
operands can be gathered from anywhere, and accumulators can go straight from registers to memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from intrinsics.dtypes import BF16, FP16, FP32, INT8, INT32, UINT8, ElementType
from intrinsics.record import WARP_SIZE, TensorIntrinsic

#: PTX ISA, "mma": shapes, dtypes, the first target of each, and which lane holds which element.
PTX_ISA = (
    "https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-instructions-for-mma"
)


def _instruction(
    k: int, a: ElementType, accumulator: ElementType, min_sm: int, b: ElementType | None = None
) -> TensorIntrinsic:
    """Returns m16n8k<k>; every mma.sync here has 16 rows and 8 columns. b: as `a` if not given."""
    b = b or a
    types = f"{accumulator.ptx}.{a.ptx}.{b.ptx}.{accumulator.ptx}"
    ptx = f"mma.sync.aligned.m16n8k{k}.row.col.{types}"
    return TensorIntrinsic(
        "mma_sync", 16, 8, k, a.name, b.name, accumulator.name, min_sm, PTX_ISA, ptx
    )


M16N8K16 = _instruction(16, FP16, FP32, 80)
#: The operands of k = 8 are the first registers of those of k = 16.
INSTRUCTIONS = (
    M16N8K16,
    _instruction(16, FP16, FP16, 80),
    _instruction(16, BF16, FP32, 80),
    _instruction(8, FP16, FP32, 75),
    _instruction(8, FP16, FP16, 75),
    _instruction(8, BF16, FP32, 80),
)
#: Of integers, whose sums are exact. Weights are signed.
INTEGER_INSTRUCTIONS = (
    _instruction(32, INT8, INT32, 80),
    _instruction(32, UINT8, INT32, 80, INT8),
)


def get(k: int, operand: str, accumulator: str) -> TensorIntrinsic:
    """Returns m16n8k<k> of those dtypes. operand: of A; integers are multiplied by INT8.

    Raises ``LookupError``, which lists the instructions.
    """
    instructions = INSTRUCTIONS + INTEGER_INSTRUCTIONS
    for one in instructions:
        if (one.k, one.a_dtype, one.accumulator_dtype) == (k, operand, accumulator):
            return one
    known = ", ".join(one.name for one in instructions)
    raise LookupError(f"no mma.sync m16n8k{k} of {operand} into {accumulator}: {known}")


#: Moves of 8 x 8 matrices of 16-bit elements, a row of 16 bytes each (PTX ISA, "ldmatrix",
#: "stmatrix", "movmatrix"). For x4, lane 8 i + j gives the address of row j of matrix i. Lane l
#: holds two elements of each matrix: row l // 4, columns 2 (l % 4) and the next. Bytes move in
#: pairs, and can't be transposed.
LDMATRIX = "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
LDMATRIX_TRANSPOSED = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"
STMATRIX = "stmatrix.sync.aligned.m8n8.x4.shared.b16"
MOVMATRIX_TRANSPOSED = "movmatrix.sync.aligned.m8n8.trans.b16"


@dataclass(frozen=True)
class Fragment:
    """One operand of an mma.sync in registers: which lane holds which element.

    A lane's elements are numbered from 0. As many as fit share a 32-bit register, the first in its
    lowest bits. ``operand`` is "a", "b" or "c" (also D). Source: `PTX_ISA`, "Matrix Fragments"; its
    maps for elements of 8, 16 and 32 bits are one formula in elements per register.
    """

    operand: str
    rows: int
    columns: int
    dtype: str

    @classmethod
    def of(cls, operand: str, instruction: TensorIntrinsic) -> Fragment:
        """Returns the fragment of an operand of an instruction."""
        return cls(operand, *instruction.shape(operand), instruction.dtype(operand))

    @property
    def per_register(self) -> int:
        """Elements in a register."""
        return dtypes.get(self.dtype).per_register

    @property
    def elements(self) -> int:
        """Elements that each lane holds."""
        return self.rows * self.columns // WARP_SIZE

    @property
    def registers(self) -> int:
        """32-bit registers of each lane."""
        return self.elements // self.per_register

    def element(self, lane: Any, number: Any) -> tuple[Any, Any]:
        """Returns (row, column) of element ``number`` of a lane.

        Takes integers, NumPy arrays or TVM expressions.
        """
        group, thread = lane // 4, lane % 4
        if self.operand == "c":
            return group + number // 2 * 8, thread * 2 + number % 2
        each = self.per_register
        register, low = number // each, number % each
        if self.operand == "a":
            return group + register % 2 * 8, thread * each + low + register // 2 * (4 * each)
        return thread * each + low + register * (4 * each), group

    def places(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Returns two arrays (rows, columns): each element's lane, and its number in that lane."""
        lane, number = np.indices((WARP_SIZE, self.elements))
        at = self.element(lane, number)
        lanes, numbers = (np.empty((self.rows, self.columns), np.intp) for _ in range(2))
        lanes[at], numbers[at] = lane, number
        return lanes, numbers
