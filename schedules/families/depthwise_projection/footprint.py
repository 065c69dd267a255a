"""The footprint of the kernel of a depthwise convolution and its projection."""

from __future__ import annotations

import math

from intrinsics import dtypes
from schedules.conv.signature import channel_operands
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.families.depthwise_projection.config import (
    COLUMNS,
    DepthwiseProjectionConfig,
)
from schedules.families.depthwise_projection.plan import PAIR, Plan
from schedules.families.depthwise_projection.prologue import VECTOR
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import MMA, Footprint

#: Bytes that a warp reads by a load of four matrices, or of 16 bytes a lane.
LOAD_BYTES = 512
#: Warp instructions, as counted in compiled kernels: for 32 copies of 16 bytes with bounds; for an
#: element between the two, with its activation; for a step, beside those; for 32 vectors of y.
COPY, BETWEEN, STEP, STORE = 8, 3, 30, 40
#: The same for an element between the two that is a byte.
BYTE_BETWEEN = 2.75
#: Clocks of a block outside of its steps, and how often what goes through shared memory is
#: replayed: fitted to 110 kernels on an H200 (MobileNetV2's pairs at batch 1, 32 and 128).
START, REPLAYED = 1500, 1.4


def footprint(w: ConvWorkload, config: DepthwiseProjectionConfig) -> Footprint:
    """Returns instructions, traffic and occupancy of a configuration."""
    plan = Plan(w, config)
    first, one, size = plan.prologue, plan.instruction, plan.operand.bytes
    channels = config.chunk * plan.depth
    products = plan.fragments * plan.products
    half, loads = _half(plan)
    projection = plan.fragments * plan.columns
    issued = 2 * half + projection + plan.columns // plan.together + STEP
    loaded = 2 * loads * LOAD_BYTES + plan.columns * 256
    # A chunk.
    steps = config.chunk // config.deep * config.warps
    patch = math.prod(plan.patch) * channels
    weights = plan.filter_rows * plan.filter_elements + config.chunk * plan.step_elements
    issue = steps * issued + COPY * (patch // plan.pixel_vector + weights // plan.vector) // 32
    outputs = math.prod(plan.tile) * plan.columns * COLUMNS
    accumulator = dtypes.get(w.precision.accumulator).bytes
    exchanged = outputs * accumulator * 2 * (config.deep - 1)
    inside = min(plan.patch[0], first.h) * min(plan.patch[1], first.w) / math.prod(plan.patch)
    residual = size * outputs if w.epilogue.residual else 0
    traffic = plan.chunks * (steps * loaded + size * (patch + weights)) + exchanged
    return Footprint(
        blocks=plan.blocks,
        threads=config.threads,
        registers=plan.registers,
        shared_bytes=plan.memory.bytes,
        unit=MMA,
        operand=w.precision.operands[0],
        macs=plan.chunks * steps * (2 * products + projection) * one.m * one.n * one.k,
        instructions=plan.chunks * issue + STORE * outputs // (PAIR * plan.run) // 32,
        shared_traffic=int(REPLAYED * traffic),
        read_bytes=int(size * plan.chunks * (patch * inside + weights)) + residual,
        written_bytes=dtypes.get(w.precision.result).bytes * outputs,
        dram_bytes=moved_bytes(w),
        steps=plan.chunks,
        rounds=2 * config.chunk // config.deep,
        ahead=plan.stages - 1,
        pause=START,
    )


def _half(plan: Plan) -> tuple[int, int]:
    """Returns the instructions of a warp for half of a step's channels, and how many of them load
    `LOAD_BYTES`."""
    products = plan.fragments * plan.products
    if plan.integer:
        taps = 2 * plan.filter_bytes // VECTOR + len(channel_operands(plan.prologue))
        loads = taps + plan.fragments * plan.tap_pairs
        # The operand of each instruction, and eight elements of a fragment as two registers.
        between = int(plan.fragments * 8 * BYTE_BETWEEN)
        return loads + 2 * plan.products + products + between, loads
    filter_loads = ceil_div(plan.filter_elements, plan.vector)
    loads = plan.loads + filter_loads
    half = loads + 4 * plan.products + products
    # Beside its elements, bias and transposition of each.
    return half + plan.fragments * (4 * BETWEEN + 4 + 2), loads
