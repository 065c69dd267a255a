"""What a tensor-core instruction is: one frozen record that checks itself."""

from __future__ import annotations

from dataclasses import dataclass

#: Accumulator dtypes that each operand dtype may have.
ACCUMULATORS = {"float16": ("float32", "float16"), "bfloat16": ("float32",)}
WARP_SIZE = 32


@dataclass(frozen=True)
class TensorIntrinsic:
    """``D[m, n] = sum over k of A[m, k] * B[k, n] + C[m, n]``, done by the threads together.

    A is row major (m, k), B row major (k, n), C and D row major (m, n). An operand lives in a
    *fragment*: registers spread over the threads in an order that the hardware keeps to itself,
    so a fragment is only ever filled, loaded, multiplied and stored as a whole.
    """

    family: str
    m: int
    n: int
    k: int
    operand_dtype: str
    accumulator_dtype: str
    #: Smallest compute capability that has it, as in ``sm_70``.
    min_sm: int
    #: Where the shape, the dtypes and ``min_sm`` are specified.
    source: str
    threads: int = WARP_SIZE
    a_scope: str = "wmma.matrix_a"
    b_scope: str = "wmma.matrix_b"
    accumulator_scope: str = "wmma.accumulator"

    def __post_init__(self) -> None:
        accumulators = ACCUMULATORS.get(self.operand_dtype, ())
        warps = self.threads > 0 and self.threads % WARP_SIZE == 0
        problems = [
            text
            for failed, text in (
                (min(self.m, self.n, self.k) <= 0, "m, n and k are positive"),
                (not accumulators, f"operands are one of {sorted(ACCUMULATORS)}"),
                (
                    bool(accumulators) and self.accumulator_dtype not in accumulators,
                    f"{self.operand_dtype} accumulates in one of {accumulators}",
                ),
                (not warps, f"threads come in warps of {WARP_SIZE}"),
                (
                    warps and self.m * self.n % self.threads != 0,
                    "threads share the m x n results evenly",
                ),
                (self.min_sm < 70, "tensor cores begin at sm_70"),
                (not self.source.startswith("https://"), "a source is a link"),
            )
            if failed
        ]
        if problems:
            raise ValueError(f"{self!r} is no instruction: " + "; ".join(problems))

    @property
    def name(self) -> str:
        """Such as ``wmma_m16n16k16_f16_f32``: operands, then accumulator."""
        short = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}
        dtypes = f"{short[self.operand_dtype]}_{short[self.accumulator_dtype]}"
        return f"{self.family}_m{self.m}n{self.n}k{self.k}_{dtypes}"

    def accumulator_registers(self) -> int:
        """32-bit registers per thread that one accumulator fragment takes."""
        bytes_each = 4 if self.accumulator_dtype == "float32" else 2
        return self.m * self.n * bytes_each // (4 * self.threads)
