"""The footprint of the WMMA schedule on a GPU. Instructions as counted in kernels for sm_90."""

from __future__ import annotations

import math

from intrinsics import dtypes
from intrinsics.record import WARP_SIZE
from schedules.conv.gemm import Gemm
from schedules.conv.workload import ConvWorkload
from schedules.expressions.backend import GPU_VECTOR, access_elements
from schedules.families.wmma.config import (
    REGISTERS_BESIDE_FRAGMENTS,
    WmmaConfig,
    fragment_registers,
    gather_vector,
    instruction,
    shared_bytes,
)
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import MMA, Footprint

#: Multiply-adds of one mma.sync, and elements of one fragment, which one ldmatrix loads.
MMA_MACS, FRAGMENT = 16 * 8 * 16, 256
#: The rate of 8-bit integers is that of an mma.sync of 32 steps along k. WMMA becomes those of 16,
#: which are assumed to take as long.
INTEGERS = 2
#: Warp instructions: of a step's loop; of a gather by 32 lanes with bounds, of 16 bytes or one
#: element each; of a copy of weights by 32 lanes; of 32 vectors of the output and its epilogue.
STEP, GATHER, ELEMENT, WEIGHT, STORE = 30, 17, 26, 7, 40
#: With more elements per thread, indices do not fit its registers: twice the instructions.
MOST_ELEMENTS = 16
#: Share of instructions that each further stage adds to such a gather.
STAGE = 0.2
#: Warp instructions of a gather without bounds.
GATHER_INSIDE = 6
#: Bytes after which banks repeat, and bytes of a row that ldmatrix reads.
BANKS, ROW = 128, 16


def conflicts(stride: int) -> int:
    """Returns the number of replays of an ldmatrix of rows that are `stride` bytes apart."""
    return math.gcd(stride // ROW, BANKS // ROW)


def vector(w: ConvWorkload, config: WmmaConfig) -> int:
    """Returns the number of elements that one access of the gather moves.

    TVM gathers element by element if the indices of rows need a division that is not a shift, and
    bounds are checked.
    """
    inside = not any(w.padding) and w.r == w.s == 1
    odd = config.chunk & (config.chunk - 1) != 0
    return 1 if odd and not inside else gather_vector(w, config.tile)


def footprint(w: ConvWorkload, config: WmmaConfig) -> Footprint:
    """Returns the footprint of a workload and configuration."""
    gemm, tile = Gemm.of(w, config.tile), config.tile
    intrinsic = instruction(w, config)
    x, weight = (dtypes.get(one).bytes for one in w.precision.operands)
    result = dtypes.get(w.precision.result).bytes
    full = access_elements(w.precision.x)
    steps = gemm.reduction.outer * (gemm.i_pad // tile.i)
    macs = tile.m * tile.k * tile.i
    wide = vector(w, config)
    gathers, weights = (
        tile.m * tile.i // wide,
        tile.i * tile.k // access_elements(w.precision.operands[1]),
    )
    loads = config.warps * (config.fragments_m + config.fragments_k) * config.chunk
    simple = wide == full and not any(w.padding)
    each = GATHER_INSIDE if simple else GATHER if wide > 1 else ELEMENT
    if wide < full:
        many = gathers > MOST_ELEMENTS * config.warps * WARP_SIZE
        each = int(each * (1 + STAGE * (config.stages - 1)) * (2 if many else 1))
    copies = (each * gathers + WEIGHT * weights) // WARP_SIZE
    step = config.warps * STEP + copies + loads + macs // MMA_MACS
    outputs = tile.m * min(tile.k, gemm.k)
    stores = STORE * outputs // GPU_VECTOR // WARP_SIZE
    # A tile of weights is contiguous: its rows are one fragment's columns apart.
    a = x * config.fragments_m * conflicts(x * (tile.i + config.pad))
    b = weight * config.fragments_k * conflicts(weight * tile.fragment_k)
    fragments = config.warps * config.chunk * (a + b) * FRAGMENT
    copied = x * tile.m * tile.i * max(1, 6 // wide) + weight * tile.i * tile.k
    # Accumulators go through shared memory: the stride of a row is a multiple of 64 bytes.
    staged = 4 * tile.m * tile.k * (1 + min(4, tile.k // 8))
    residual = dtypes.get(w.precision.added).bytes * outputs if w.epilogue.residual else 0
    useful = min(1.0, gemm.reduction.inner / gemm.i_pad)
    hides = config.asynchronous and wide == full
    return Footprint(
        blocks=gemm.blocks,
        threads=config.warps * intrinsic.threads,
        registers=fragment_registers(intrinsic, config) + REGISTERS_BESIDE_FRAGMENTS,
        shared_bytes=shared_bytes(w, config),
        unit=MMA,
        operand=w.precision.operands[0],
        macs=macs * steps * (INTEGERS if dtypes.get(w.precision.accumulator).integer else 1),
        instructions=step * steps + stores,
        shared_traffic=(fragments + copied) * steps + staged,
        read_bytes=int(steps * (x * tile.m * tile.i * useful + weight * tile.i * tile.k))
        + residual,
        written_bytes=outputs * result,
        dram_bytes=moved_bytes(w),
        steps=steps,
        rounds=config.chunk,
        ahead=config.stages - 1 if hides else 0,
    )
