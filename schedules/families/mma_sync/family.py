"""Convolution as an implicit GEMM on mma.sync, with everything between memory and registers ours.

A block computes a (m, k) tile of outputs. Its threads copy 16 bytes at a time to shared memory,
asynchronously and several stages ahead: for each row of the tile the channels of the pixel that
a filter tap reads (the gather), and the weights as they are packed. Each warp loads fragments
with ldmatrix, one step ahead of the multiplications, and keeps its sums in registers to the end.

    copy(0) .. copy(stages - 2)
    for step:                              # (filter tap, chunk of channels)
        for each fragment of the chunk:
            load the next fragment         # at the last one: wait for the next stage, barrier
            copy a part of step + stages - 1
            multiply this fragment
    epilogue

Rows in shared memory are 32 to 256 bytes long, and which 16 bytes of it a chunk of channels takes
is turned by the row's number, so that neither copies nor ldmatrix meet in a bank.

It is not written as a TE schedule, for what makes it fast is what a schedule can't say: where a
row is read from is worked out once a block and then stepped on, a mask of valid taps stands for
the padding's conditions, and loads are dealt out between multiplications. So LLVM has no form of
it, and nothing emulates it; its CUDA text is run by the tests on a CPU instead, thread by thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray
from tvm import tirx

from intrinsics.mma_sync import M16N8K16
from schedules.conv.gemm import Reduction, pack_weight
from schedules.conv.precision import Precision
from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload
from schedules.families.mma_sync import space as mma_sync_space
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.families.mma_sync.footprint import footprint
from schedules.families.mma_sync.kernel import kernel
from schedules.families.mma_sync.plan import Plan
from schedules.families.mma_sync.space import check
from schedules.family import Family, Given, Match, Reject, alone, fitting, other_precision
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

#: Filter taps that a row's mask of valid taps has bits for.
MOST_TAPS = 32


class MmaSyncFamily(Family):
    """NHWC to NHWC, or to a window of NHWC, on GPUs from Ampere on."""

    name = "mma_sync"
    tensorized = True
    config_type: type = MmaSyncConfig
    version = 1
    default_measured = True

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        reason = _unsuited(w, hardware)
        if reason:
            return Reject(self.name, reason)
        return fitting(self.name, next(mma_sync_space.guesses(w, hardware), None), hardware)

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[MmaSyncConfig]:
        return mma_sync_space.space(w, hardware)

    def check(self, w: ConvWorkload, config: MmaSyncConfig, hardware: Hardware) -> None:
        check(w, config, hardware)

    def footprint(self, w: ConvWorkload, config: MmaSyncConfig, hardware: Hardware) -> Footprint:
        return footprint(w, config)

    def schedule(self, w: ConvWorkload, config: MmaSyncConfig, hardware: Hardware) -> tirx.PrimFunc:
        check(w, config, hardware)
        return kernel(w, config)

    def padded_macs(self, w: ConvWorkload, config: MmaSyncConfig) -> int:
        plan = Plan(w, config)
        return w.groups * plan.gemm.m_pad * plan.gemm.k_pad * plan.steps * config.tile.i

    def signature(self, w: ConvWorkload, config: MmaSyncConfig) -> Signature:
        """Returns the operands; the weight as `gemm.pack_weight` gives it."""
        return Plan(w, config).signature

    def pack(self, w: ConvWorkload, config: MmaSyncConfig, given: Given) -> dict[str, NDArray[Any]]:
        """Packs the weight as the WMMA families do, so that buckets can share it."""
        plan = Plan(w, config)
        weight = pack_weight(w, plan.gemm.tile, given[WEIGHT])
        return plan.signature.pack(given, weight=weight)


def _unsuited(w: ConvWorkload, hardware: Hardware) -> str:
    """Why the family does not take `w`; empty if it does."""
    if more := alone(w):
        return more
    if hardware.kind != "cuda":
        return "written in instructions of a GPU"
    if hardware.sm < M16N8K16.min_sm:
        return f"{hardware.name} lacks mma.sync m16n8k16 and cp.async"
    layouts = [w.in_layout, w.out_layout] + [w.epilogue.residual_layout] * w.epilogue.residual
    for layout in layouts:
        if layout.packed:
            return f"everything has to be NHWC, and something is {layout}"
    if w.group_c % 8 or Reduction.of(w).by_rows:
        return f"copies take 16 bytes, so 8 channels, and a group has {w.group_c}"
    if w.r * w.s > MOST_TAPS:
        return f"{w.r * w.s} filter taps, and the mask of valid ones has {MOST_TAPS} bits"
    if max(math.prod(shape) for shape in (w.in_shape, w.buffer_shape, w.residual_shape)) >= 2**31:
        return "elements are numbered in 32 bits, and a tensor has more"
    return other_precision(w, Precision())
