"""What the kernel of `depthwise_projection` asks of a GPU."""

from __future__ import annotations

import math

from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.families.depthwise_projection.config import (
    COLUMNS,
    DEPTH,
    VECTOR,
    DepthwiseProjectionConfig,
    Geometry,
)
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import MMA, Footprint

#: Bytes that a warp reads by a load of four matrices, or of 16 bytes a lane.
LOAD_BYTES = 512
#: Warp instructions, as counted in compiled kernels: of 32 copies of 16 bytes with bounds; of an
#: element between the two, with its activation; of a step, beside; of 32 vectors of y.
COPY, BETWEEN, STEP, STORE = 8, 3, 30, 40
#: Clocks of a block that no step has, and how often what goes through shared memory is replayed:
#: fitted to 110 kernels on an H200 (MobileNetV2's pairs at batch 1, 32 and 128).
START, REPLAYED = 1500, 1.4
#: Of one instruction.
MMA_MACS = 16 * 8 * 16


def footprint(w: ConvWorkload, config: DepthwiseProjectionConfig) -> Footprint:
    g, first = Geometry(w, config), w.prologue
    assert first is not None
    channels = config.chunk * DEPTH
    words = g.filter_halves // 2
    # A warp's step: of each half of its channels; then of the second product.
    diagonals = g.spans * first.s
    products = g.fragments * diagonals
    half = g.loads + ceil_div(words, 4) + 4 * diagonals + products
    # Beside its elements, bias and transposition of each.
    half += g.fragments * (4 * BETWEEN + 4 + 2)
    seconds = g.fragments * g.columns
    issued = 2 * half + seconds + g.columns // g.pair + STEP
    loaded = 2 * (g.loads + ceil_div(words, 4)) * LOAD_BYTES + g.columns * 256
    # Of a chunk.
    steps = config.chunk // config.deep * config.warps
    patch = math.prod(g.patch) * channels
    weights = channels * g.filter_halves + config.chunk * g.step_halves
    issue = steps * issued + COPY * (patch + weights) // VECTOR // 32
    outputs = math.prod(g.tile) * g.columns * COLUMNS
    exchanged = outputs * 4 * 2 * (config.deep - 1)
    inside = min(g.patch[0], first.h) * min(g.patch[1], first.w) / math.prod(g.patch)
    residual = 2 * outputs if w.epilogue.residual else 0
    return Footprint(
        blocks=g.blocks,
        threads=config.threads,
        registers=g.registers,
        shared_bytes=g.shared_bytes,
        unit=MMA,
        operand=w.precision.operands[0],
        macs=g.chunks * steps * (2 * products + seconds) * MMA_MACS,
        instructions=g.chunks * issue + STORE * outputs // (2 * g.run) // 32,
        shared_traffic=int(
            REPLAYED * (g.chunks * (steps * loaded + 2 * (patch + weights)) + exchanged)
        ),
        read_bytes=int(2 * g.chunks * (patch * inside + weights)) + residual,
        written_bytes=2 * outputs,
        dram_bytes=moved_bytes(w),
        steps=g.chunks,
        rounds=2 * config.chunk // config.deep,
        ahead=g.stages - 1,
        pause=START,
    )
