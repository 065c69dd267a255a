"""The footprint of the mma.sync kernel on a GPU."""

from __future__ import annotations

from intrinsics import dtypes
from schedules.conv.gemm import Reduction
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.expressions.backend import GPU_VECTOR
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.families.mma_sync.plan import FRAGMENT, FRAGMENT_BYTES, Plan
from schedules.families.mma_sync.space import OTHER_REGISTERS
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import MMA, Footprint, exchange

#: Warp instructions: of a warp's step; of 32 copies of 16 bytes; of 32 vectors of the output, and
#: more of them where a residual of bytes is read, as counted in the machine code.
STEP, COPY, STORE, BYTES = 30, 6, 40, 28


def footprint(w: ConvWorkload, config: MmaSyncConfig) -> Footprint:
    """Returns the kernel's footprint."""
    plan = Plan(w, config)
    tile = plan.tile
    gemm, mma = plan.gemm, plan.instruction
    own = w.precision
    x, result, added = (dtypes.get(one).bytes for one in (own.x, own.result, own.added))
    count = ceil_div(plan.steps, config.split)
    macs = tile.m * tile.k * tile.i
    copied = (tile.m + tile.k) * tile.i
    loads = config.warps_m * config.warps_k * (config.fragments_m + config.fragments_k)
    loads *= config.chunk
    step = (
        config.warps * STEP
        + COPY * copied // plan.vector // 32
        + loads
        + macs // (mma.m * mma.n * mma.k)
    )
    outputs = tile.m * min(tile.k, gemm.k)
    reduction = Reduction.of(w)
    useful = min(1.0, reduction.inner / gemm.i_pad)
    residual = added * outputs if w.epilogue.residual else 0
    store = STORE + (BYTES if residual and added == 1 else 0)
    # One ldmatrix loads a fragment. Accumulators that are to be added are written and read.
    fragment = FRAGMENT * FRAGMENT_BYTES
    accumulator = dtypes.get(own.accumulator).bytes
    staged = 2 * accumulator * outputs * config.splits_reduction
    return Footprint(
        blocks=gemm.blocks * config.split,
        threads=config.threads,
        registers=config.fragment_registers + OTHER_REGISTERS,
        shared_bytes=plan.memory.bytes,
        unit=MMA,
        operand=own.operands[0],
        macs=macs * count,
        instructions=step * count + store * outputs // GPU_VECTOR // 32,
        shared_traffic=count * (loads * fragment + x * copied) + staged,
        read_bytes=int(x * count * copied * useful) + residual // config.split,
        written_bytes=outputs * result // config.split,
        dram_bytes=moved_bytes(w),
        steps=count,
        rounds=plan.warp_fragments,
        ahead=config.stages - 1,
        pause=exchange(config.split) if config.split > 1 else 0,
    )
