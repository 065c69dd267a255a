"""The footprint of the WGMMA kernel: what it takes of a GPU."""

from __future__ import annotations

from intrinsics import dtypes, wgmma
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.families.wgmma.config import WgmmaConfig
from schedules.families.wgmma.plan import Plan
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import WGMMA, Footprint, exchange
from schedules.machine.hardware import Hardware

#: Warp instructions of a consumer in a step, and for each of its accumulators in the epilogue; of
#: integers as counted in the machine code, and more of them where there is a residual.
STEP, ACCUMULATOR = 40, 8
INTEGER, INTEGER_RESIDUAL = 3, 3
#: Warp instructions for each 16 bytes of a thread that a gate multiplies, and clocks by which that
#: delays a step: a load from L2 that is partly waited for, shared memory twice, a barrier. Assumed.
GATED, GATED_CLOCKS = 16, 250
#: Clocks until barriers and tensor maps are ready; until a copy of the engine's is there while all
#: multiprocessors copy.
BEGIN, COPY = 1500, 1400


def footprint(w: ConvWorkload, config: WgmmaConfig, hardware: Hardware) -> Footprint:
    """Returns instructions, traffic and occupancy of a configuration."""
    plan = Plan(w, config)
    steps = ceil_div(plan.steps, config.split)
    consumers = config.warpgroups * wgmma.WARPGROUP // 32
    outputs = config.rows * min(config.columns, w.k)
    # Each instruction reads its 64 rows and all columns from shared memory; both were written.
    products = config.warpgroups * config.fragments * (wgmma.M + config.columns) * plan.row_bytes
    # In the epilogue each result is written and read.
    results = min(4, 2 * plan.stored.bytes) * outputs
    shared = steps * (products + plan.pixel_bytes + plan.weight_bytes) + results
    if plan.clustered:
        shared += 8 * config.rows * config.columns
    residual = plan.added.bytes * outputs if w.epilogue.residual else 0
    columns = min(config.columns, plan.k_packed)
    gated, delay, gate = 0, 0, 0
    if w.gate:
        gated = GATED * plan.gate_registers // (wgmma.CHUNK_BYTES // 4)
        delay = steps * GATED_CLOCKS
        # Pixels are read and written once more, and a chunk of the gate is read for each of theirs.
        shared += 3 * steps * plan.pixel_bytes
        gate = steps * ceil_div(config.rows, w.p * w.q) * plan.row_bytes
    return Footprint(
        blocks=plan.tiles * config.split,
        threads=config.threads,
        registers=hardware.limits.registers // config.resident // config.threads,
        shared_bytes=plan.memory.bytes,
        unit=WGMMA,
        operand=w.precision.operands[0],
        macs=steps * config.rows * config.columns * plan.depth,
        instructions=consumers * (steps * (STEP + gated) + config.accumulators * _epilogue(plan)),
        shared_traffic=shared,
        read_bytes=steps * (plan.pixel_bytes + columns * plan.row_bytes)
        + gate
        + residual // config.split,
        written_bytes=outputs * dtypes.get(w.precision.result).bytes // config.split,
        dram_bytes=moved_bytes(w),
        steps=steps,
        pause=BEGIN + delay + (exchange(config.split) if config.split > 1 else 0),
        ahead=max(1, config.stages - 1),
        fetch=COPY,
        apart=True,
    )


def _epilogue(plan: Plan) -> int:
    """Warp instructions for each accumulator of a thread."""
    if not plan.adjacent:
        return ACCUMULATOR
    return INTEGER + (INTEGER_RESIDUAL if plan.w.epilogue.residual else 0)
