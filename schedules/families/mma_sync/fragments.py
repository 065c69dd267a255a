"""A warp's fragments: operands out of shared memory, and its accumulators.

A fragment is 16 x 16 elements. ldmatrix loads it as four matrices of 8 x 8; lane l names the chunk
of row l % 16 in half l // 16. Of pixels (row, channel) that is operand a of an instruction.
Weights (channel, output channel) are transposed on the way, and are operand b of two. Bytes, which
are moved in pairs, are 16 x 32 elements, weights with channels innermost and not transposed:

    pixels          channel 0-7  8-15            weights      output channel 0-7  8-15
    row 0-7           matrix 0     2             channel 0-7        matrix 0     2
    row 8-15          matrix 1     3             channel 8-15       matrix 1     3
                                                                   first b    second b

                                         bytes        channel      0-15  16-31
                                         output channel 0-7      matrix 0     1     first b
                                         output channel 8-15     matrix 2     3     second b
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.mma_sync import Fragment
from schedules.families.mma_sync.block import Block
from schedules.families.mma_sync.plan import CHUNK_BYTES, FRAGMENT, swizzled
from schedules.threads import ptx
from schedules.threads.async_pipeline import AsyncCopyPipeline
from schedules.threads.registers import Registers, bind

Product = Callable[[], None]
#: Registers of a lane that an ldmatrix fills, one from each matrix.
MATRICES = 4


class Fragments:
    """Two sets of operands, one loaded while the other is multiplied, and the warp's accumulators.

    accumulators: (fragments_m, 2 x fragments_k, 4), for each 16 rows by 8 output channels those
    of `intrinsics.mma_sync.Fragment`. reader: the end of the pipeline that the warp reads.
    """

    def __init__(self, block: Block, pipeline: AsyncCopyPipeline) -> None:
        self.plan, self.config = block.plan, block.plan.config
        self.instruction, config = self.plan.instruction, self.config
        self.columns = config.fragments_k * FRAGMENT // self.instruction.n
        each = Fragment.of("c", self.instruction).registers
        self._a = Registers.array("a", (2, config.fragments_m, MATRICES), "uint32")
        self._b = Registers.array("b", (2, config.fragments_k, MATRICES), "uint32")
        self.accumulators = Registers.array(
            "accumulators",
            (config.fragments_m, self.columns, each),
            self.instruction.accumulator_dtype,
        )
        integers = dtypes.get(self.instruction.accumulator_dtype).integer
        self._sums = self.accumulators.view("uint32") if integers else self.accumulators
        self.reader = pipeline.reader("read")
        self._locate(block)
        zero = tirx.const(0, self.instruction.accumulator_dtype)
        for m in range(config.fragments_m):
            for k in range(self.columns):
                for i in range(each):
                    self.accumulators[m, k, i] = zero

    def _locate(self, block: Block) -> None:
        """Addresses in the first stage of the chunks that the lane names: of pixels for each
        fragment along the k-block, since it is swizzled; of weights for the first."""
        plan, config, lane = self.plan, self.config, block.lane
        start, count = block.shared.address, plan.warp_fragments
        self._from_a = Registers.array("from_a", (count,), "uint32")
        row = block.warp_m * (config.fragments_m * FRAGMENT) + lane % FRAGMENT
        for i in range(count):
            chunk = (block.warp_i * count + i) * plan.fragment_chunks + lane // FRAGMENT
            chunk = swizzled(lane % FRAGMENT, chunk, plan.pixel_chunks)
            at = plan.memory["pixels"].at(0, row, chunk * plan.vector)
            self._from_a[i] = start + T.cast(at, "uint32")
        row, half = lane, lane // FRAGMENT
        if plan.adjacent:
            row, half = lane % 8 + lane // FRAGMENT * 8, lane // 8 % 2
        chunk = row % FRAGMENT * plan.fragment_chunks
        chunk += swizzled(row, half, plan.fragment_chunks)
        tiles = plan.memory["weights"].at(
            0, block.warp_i * count, block.warp_k * config.fragments_k
        )
        self._from_b = bind("from_b", start + T.cast(tiles + chunk * CHUNK_BYTES, "uint32"))

    def load(self, turn: int, i: int) -> None:
        """Loads set `turn` from the stage that is read. i: fragment along the warp's part of the
        k-block."""
        stage = self.reader.offset
        row_bytes = self.plan.memory["pixels"].stride(2)
        tile_row_bytes, tile_bytes = (self.plan.memory["weights"].stride(n) for n in (2, 3))
        for m in range(self.config.fragments_m):
            address = ptx.offset(self._from_a[i] + stage, m * FRAGMENT * row_bytes)
            ptx.ldmatrix(self._four(self._a, turn, m), address)
        for k in range(self.config.fragments_k):
            address = ptx.offset(self._from_b + stage, i * tile_row_bytes + k * tile_bytes)
            ptx.ldmatrix(self._four(self._b, turn, k), address, transposed=not self.plan.adjacent)

    def products(self, turn: int) -> list[Product]:
        """The instructions that multiply set `turn`, each to be emitted by a call: to and fro
        along the columns, so that neighbours share an operand."""
        columns = range(self.columns)
        return [
            partial(self._multiply, turn, m, k)
            for m in range(self.config.fragments_m)
            for k in (columns if m % 2 == 0 else reversed(columns))
        ]

    def _multiply(self, turn: int, m: int, k: int) -> None:
        """16 rows by 8 output channels: half of fragment (m, k // 2)."""
        half = Fragment.of("b", self.instruction).registers
        b = self._four(self._b, turn, k // 2)[k % 2 * half :][:half]
        sums = self._four(self._sums, m, k)
        ptx.mma(self.instruction, sums, self._four(self._a, turn, m), b)

    def _four(self, registers: Registers, first: int, second: int) -> list[Expr]:
        """The registers of one fragment."""
        return [registers[first, second, i] for i in range(4)]
