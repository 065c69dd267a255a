"""The record of a tensor-core instruction."""

from __future__ import annotations

from dataclasses import dataclass

from intrinsics import dtypes

WARP_SIZE = 32
#: `TensorIntrinsic.min_sm` of an instruction that no GPU has: a CPU's, or its emulation's.
CPU_ONLY = 1 << 30


@dataclass(frozen=True)
class TensorIntrinsic:
    """One tensor-core instruction: ``D[m, n] = sum over k of A[m, k] * B[k, n] + C[m, n]``.

    Its threads compute it together. A (m, k), B (k, n), C and D (m, n) are row major. The dtypes
    are names of `intrinsics.dtypes`. Raises ``ValueError``, which lists every inconsistent field.
    """

    family: str
    m: int
    n: int
    k: int
    a_dtype: str
    b_dtype: str
    accumulator_dtype: str
    #: Lowest compute capability that has it: 70 is ``sm_70``; or `CPU_ONLY`.
    min_sm: int
    #: Link to the specification of shape, dtypes and ``min_sm``.
    source: str
    #: Name of the instruction in PTX; empty if the compiler builds it from others.
    ptx: str = ""
    threads: int = WARP_SIZE
    a_scope: str = "local"
    b_scope: str = "local"
    accumulator_scope: str = "local"

    def __post_init__(self) -> None:
        problems = [
            text
            for failed, text in (
                (min(self.m, self.n, self.k) <= 0, "m, n and k are positive"),
                *((bool(p), p) for p in self._dtype_problems()),
                (self.threads <= 0 or self.threads % WARP_SIZE != 0, "threads come in warps of 32"),
                (
                    self.threads > 0 and self.m * self.n % self.threads != 0,
                    "threads share the m x n results evenly",
                ),
                (self.min_sm < 70, "tensor cores begin at sm_70"),
                (not self.source.startswith("https://"), "a source is a link"),
            )
            if failed
        ]
        if problems:
            raise ValueError(f"{self!r} is not an instruction: " + "; ".join(problems))

    def _dtype_problems(self) -> list[str]:
        known = {one.name: one.accumulators for one in dtypes.TYPES if one.accumulators}
        problems = []
        for dtype in (self.a_dtype, self.b_dtype):
            if dtype not in known:
                problems.append(f"operands are one of {sorted(known)}")
            elif self.accumulator_dtype not in known[dtype]:
                problems.append(f"{dtype} accumulates in one of {known[dtype]}")
        return list(dict.fromkeys(problems))

    @property
    def name(self) -> str:
        """Name such as ``wmma_m16n16k16_f16_f32``: operands, then accumulator."""
        operands = dict.fromkeys((self.a_dtype, self.b_dtype))
        parts = [dtypes.get(one).ptx for one in (*operands, self.accumulator_dtype)]
        return f"{self.family}_m{self.m}n{self.n}k{self.k}_{'_'.join(parts)}"

    def dtype(self, operand: str) -> str:
        """Returns the dtype of operand "a", "b" or "c" (also D's)."""
        return {"a": self.a_dtype, "b": self.b_dtype, "c": self.accumulator_dtype}[operand]

    @property
    def wide_dtype(self) -> str:
        """Dtype in which the emulation multiplies exactly and accumulates."""
        exact = dtypes.get(self.accumulator_dtype).integer
        return self.accumulator_dtype if exact else dtypes.FP32.name

    def shape(self, operand: str) -> tuple[int, int]:
        """Returns rows and columns of operand "a", "b" or "c" (also D's)."""
        return {"a": (self.m, self.k), "b": (self.k, self.n), "c": (self.m, self.n)}[operand]

    def registers(self, operand: str) -> int:
        """Returns the number of 32-bit registers per thread of an operand's fragment."""
        rows, columns = self.shape(operand)
        return rows * columns // (self.threads * dtypes.get(self.dtype(operand)).per_register)

    def accumulator_registers(self) -> int:
        """Returns the number of 32-bit registers per thread of an accumulator fragment."""
        return self.registers("c")
