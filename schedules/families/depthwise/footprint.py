"""The footprint of the depthwise schedule on a GPU. Instructions as counted in compiled kernels."""

from __future__ import annotations

from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.families.depthwise.config import (
    DepthwiseConfig,
    by_row,
    padded_pixels,
    patch_vectors,
    registers,
)
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import FP32, Footprint

#: Instructions of a thread: for its indices; for address and bounds of a load; for a vector of the
#: output, plus 3 for each element.
PLACE, LOAD, STORE = 60, 8, 6
#: Registers by which compiled kernels stay below `registers`.
UNUSED = 20
#: Bytes of one L2 access.
SECTOR = 32


def footprint(w: ConvWorkload, config: DepthwiseConfig) -> Footprint:
    """Returns the footprint of a workload and configuration."""
    x, result = (dtypes.get(one).bytes for one in (w.precision.x, w.precision.result))
    vector, pixels = config.vector, config.rows * config.columns
    p_pad, q_pad = padded_pixels(w, config)
    tall, wide = config.rows * config.down, config.columns * config.across
    blocks = w.n * (p_pad // tall) * (q_pad // wide) * (w.c // (vector * config.lanes))
    rounds, taps = (w.r, w.s) if by_row(w) else (w.r * w.s, 1)
    loads = patch_vectors(w, config) + taps
    step = loads * (LOAD + vector) + pixels * taps * vector
    thread = PLACE + rounds * step + pixels * (STORE + 3 * vector)
    height = (tall - 1) * w.stride[0] + (w.r - 1) * w.dilation[0] + 1
    width = (wide - 1) * w.stride[1] + (w.s - 1) * w.dilation[1] + 1
    channels = max(SECTOR, x * vector * config.lanes)
    warps = ceil_div(config.threads, 32)
    written = tall * wide * vector * config.lanes * result
    added = dtypes.get(w.precision.added).bytes if w.epilogue.residual else 0
    residual = tall * wide * vector * config.lanes * added
    return Footprint(
        blocks=blocks,
        threads=config.threads,
        registers=registers(w, config) - UNUSED,
        shared_bytes=0,
        unit=FP32,
        operand=dtypes.FP32.name,
        macs=config.threads * pixels * w.r * w.s * vector,
        instructions=warps * thread,
        shared_traffic=config.threads * rounds * loads * x * vector + written + residual,
        read_bytes=(min(height, w.h) * min(width, w.w) + w.r * w.s) * channels + residual,
        written_bytes=written,
        dram_bytes=moved_bytes(w),
        steps=1,
    )
