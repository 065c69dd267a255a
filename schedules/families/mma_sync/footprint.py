"""What the mma.sync kernel asks of a GPU."""

from __future__ import annotations

from intrinsics import dtypes
from schedules.conv.gemm import Reduction
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.expressions.backend import GPU_VECTOR, access_elements
from schedules.families.mma_sync.config import (
    REGISTERS_BESIDE_FRAGMENTS,
    MmaSyncConfig,
    fragment_registers,
    gemm_of,
    shared_bytes,
    steps,
)
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import MMA, Footprint, exchange

#: Multiply-adds of one instruction, and bytes of one fragment, which one ldmatrix loads.
MMA_MACS, FRAGMENT_BYTES = 16 * 8 * 16, 512
#: Warp instructions: of a warp's step; of 32 copies of 16 bytes; of 32 vectors of the output.
STEP, COPY, STORE = 30, 6, 40


def footprint(w: ConvWorkload, config: MmaSyncConfig) -> Footprint:
    gemm, tile = gemm_of(w, config), config.tile
    x, result = (dtypes.get(one).bytes for one in (w.precision.x, w.precision.result))
    count = ceil_div(steps(w, config), config.split)
    macs = tile.m * tile.k * tile.i
    copied = (tile.m + tile.k) * tile.i
    loads = config.warps_m * config.warps_k * (config.fragments_m + config.fragments_k)
    loads *= config.chunk
    step = (
        config.warps * STEP
        + COPY * copied // access_elements(w.precision.x) // 32
        + loads
        + macs // MMA_MACS
    )
    outputs = tile.m * min(tile.k, gemm.k)
    reduction = Reduction.of(w)
    useful = min(1.0, reduction.inner / gemm.i_pad)
    residual = x * outputs if w.epilogue.residual else 0
    parts = config.warps_i * config.split
    return Footprint(
        blocks=gemm.blocks * config.split,
        threads=config.threads,
        registers=fragment_registers(config) + REGISTERS_BESIDE_FRAGMENTS,
        shared_bytes=shared_bytes(config),
        unit=MMA,
        operand=w.precision.operands[0],
        macs=macs * count,
        instructions=step * count + STORE * outputs // GPU_VECTOR // 32,
        shared_traffic=count * (loads * FRAGMENT_BYTES + x * copied) + 8 * outputs * (parts > 1),
        read_bytes=int(x * count * copied * useful) + residual // config.split,
        written_bytes=outputs * result // config.split,
        dram_bytes=moved_bytes(w),
        steps=count,
        rounds=config.chunk // config.warps_i,
        ahead=config.stages - 1,
        pause=exchange(config.split) if config.split > 1 else 0,
    )
