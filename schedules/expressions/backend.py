"""The differences between a schedule for CUDA and the same schedule for LLVM.

A family describes one structure: independent blocks, warps in a block, copies shared by the threads
of a block, an output tile for each warp. On a GPU these are bound to threads. On a CPU, blocks run
in parallel and the rest are loops, the innermost vectorised.
"""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from intrinsics import dtypes
from intrinsics.record import WARP_SIZE
from schedules.machine.hardware import Hardware

#: Bytes of the widest GPU access.
ACCESS_BYTES = 16
#: Elements that a thread computes and stores at a time, and the width of its fp32 arithmetic.
GPU_VECTOR, GPU_ARITHMETIC = 8, 4
#: fp32 lanes of one CPU vector.
CPU_VECTOR = 16


def access_elements(dtype: str) -> int:
    """Returns the number of elements of a dtype in the widest GPU access."""
    return ACCESS_BYTES // dtypes.get(dtype).bytes


def vector_width(extent: int, widest: int) -> int:
    """Returns the largest power of two up to `widest` that divides `extent`."""
    width = widest
    while extent % width:
        width //= 2
    return width


class Cuda:
    """Maps the structure to blocks and threads."""

    def block(self, sch: Schedule, loop: LoopRV) -> None:
        """Gives each iteration of a loop to a block."""
        sch.bind(loop, "blockIdx.x")

    def warp(self, sch: Schedule, loop: LoopRV) -> None:
        """Gives each iteration of a loop to a warp."""
        sch.bind(loop, "threadIdx.y")

    def copy(self, sch: Schedule, block: SBlockRV, loops: int, warps: int, vector: int) -> None:
        """Divides a copy, the `loops` innermost loops of `block`, among a block's threads.

        Each thread moves `vector` elements at a time.
        """
        fused = sch.fuse(*sch.get_loops(block)[-loops:])
        _, y, x, lane = sch.split(fused, [None, warps, WARP_SIZE, vector])
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
        sch.vectorize(lane)

    def pipeline(self, sch: Schedule, loop: LoopRV, stages: int, asynchronous: bool) -> None:
        """Overlaps two copies with the arithmetic of `stages` - 1 iterations before."""
        if stages == 1:
            return
        sch.annotate(loop, "software_pipeline_stage", [0, 0, stages - 1])
        sch.annotate(loop, "software_pipeline_order", [0, 1, 2])
        if asynchronous:
            sch.annotate(loop, "software_pipeline_async_stages", [0])

    def write(
        self, sch: Schedule, epilogue: SBlockRV, out: SBlockRV, width: int, dtype: str
    ) -> None:
        """Divides a warp's output tile of a dtype among its lanes, a vector each.

        The epilogue's fp32 arithmetic is 4 wide, the widest of CUDA's vector types. Its results are
        gathered in registers, so that the store is one 16-byte access.
        """
        vector = vector_width(width, max(GPU_VECTOR, access_elements(dtype)))
        rows, columns = sch.get_loops(out)[-2:]
        outer, lane = sch.split(columns, [None, vector])
        _, thread = sch.split(sch.fuse(rows, outer), [None, WARP_SIZE])
        sch.bind(thread, "threadIdx.x")
        sch.vectorize(lane)
        sch.set_scope(epilogue, 0, "local")
        sch.compute_at(epilogue, thread, preserve_unit_loops=True)
        unrolled, lane = sch.split(sch.get_loops(epilogue)[-1], [None, min(vector, GPU_ARITHMETIC)])
        sch.vectorize(lane)
        sch.unroll(unrolled)


class Llvm:
    """Maps the structure to parallel loops and vectors."""

    def block(self, sch: Schedule, loop: LoopRV) -> None:
        """Runs the iterations of a loop in parallel."""
        sch.parallel(loop)

    def warp(self, sch: Schedule, loop: LoopRV) -> None:
        """Leaves the loop over warps as it is."""

    def copy(self, sch: Schedule, block: SBlockRV, loops: int, warps: int, vector: int) -> None:
        """Vectorises the innermost loop of a copy."""
        sch.vectorize(sch.get_loops(block)[-1])

    def pipeline(self, sch: Schedule, loop: LoopRV, stages: int, asynchronous: bool) -> None:
        """Does nothing: a CPU needs no pipeline."""

    def write(
        self, sch: Schedule, epilogue: SBlockRV, out: SBlockRV, width: int, dtype: str
    ) -> None:
        """Computes and stores the output tile in vectors."""
        sch.compute_inline(epilogue)
        columns = sch.get_loops(out)[-1]
        _, lane = sch.split(columns, [None, vector_width(width, CPU_VECTOR)])
        sch.vectorize(lane)


Backend = Cuda | Llvm


def backend(hardware: Hardware) -> Backend:
    """Returns the backend of a target."""
    return Cuda() if hardware.kind == "cuda" else Llvm()
