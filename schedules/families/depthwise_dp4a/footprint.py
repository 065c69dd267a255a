"""The footprint of the depthwise kernel of dp4a. Instructions as counted in compiled kernels."""

from __future__ import annotations

from intrinsics import dtypes
from schedules.conv.precision import RESULT_SCALE
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.families.depthwise_dp4a.config import DepthwiseDp4aConfig
from schedules.families.depthwise_dp4a.plan import QUAD, Plan
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import FP32, Footprint

#: Instructions of a thread: for its indices and what the epilogue has of its channels; for a load
#: with bounds; for an element's epilogue, a short one or another; for a vector of the output.
PLACE, LOAD, SHORT, LONG, STORE = 80, 1.2, 3.6, 10.0, 1.1
#: Bytes of one L2 access.
SECTOR = 32


def footprint(w: ConvWorkload, config: DepthwiseDp4aConfig) -> Footprint:
    """Returns the footprint of a workload and configuration."""
    plan = Plan(w, config)
    result = dtypes.get(w.precision.result).bytes
    pixels, words = config.rows * config.columns, config.words
    read = len({row for p in range(config.rows) for row in plan.read(p)})
    loads = read * plan.width
    dots = sum(len(plan.terms(column)) for column in range(config.columns)) * config.rows * w.r
    transposed = read * words * (2 * plan.pairs + QUAD * len(plan.quads))
    # Not told by the activation: workloads that differ only there share a search.
    short = dtypes.get(w.precision.result).integer and RESULT_SCALE not in w.precision.scales
    finish = SHORT if short and not w.epilogue.residual else LONG
    stores = ceil_div(plan.channels * result, 16) if result > 1 else 1
    thread = (
        PLACE + plan.taps // QUAD + loads * LOAD + transposed
        + plan.channels * (dots + pixels * finish) + pixels * STORE * stores
    )  # fmt: skip
    warps = ceil_div(config.threads, 32)
    outputs = config.threads * pixels * plan.channels
    written = outputs * result
    residual = outputs * dtypes.get(w.precision.added).bytes * w.epilogue.residual
    return Footprint(
        blocks=plan.blocks,
        threads=config.threads,
        registers=plan.registers,
        shared_bytes=0,
        unit=FP32,
        operand=dtypes.FP32.name,
        macs=outputs * w.r * w.s,
        instructions=int(warps * thread),
        shared_traffic=config.threads * plan.channels * (loads + plan.taps // QUAD) + written,
        read_bytes=_read(plan, read) + residual,
        written_bytes=written,
        dram_bytes=moved_bytes(w),
        steps=1,
    )


def _read(plan: Plan, rows: int) -> int:
    """Bytes that a block reads of x and the weight from L2: what its tiles share, once."""
    w, config = plan.w, plan.config
    _, across, along = plan.tiles
    tiles = ceil_div(config.threads, along)
    beside = min(tiles, across)
    above = ceil_div(tiles, across)
    columns = min(w.w, (beside - 1) * config.columns * w.stride[1] + plan.width)
    tall = min(w.h, (above - 1) * config.rows * w.stride[0] + rows)
    channels = max(SECTOR, min(config.threads, along) * plan.channels)
    weights = channels // QUAD * w.r * len(plan.packings) * QUAD**2
    return columns * tall * channels + weights
