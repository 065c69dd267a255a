"""Convolution as an implicit GEMM on the warpgroup instruction of sm_90a, fed by the copy engine.

    config         the knobs; space: which of them fit, and are worth trying
    plan           a workload and a configuration in numbers, and the layout of shared memory
    kernel         the kernel: producer and consumers, in a `block`
    tensor_store   its epilogue through the copy engine; adjacent_store with integers;
                   cluster_store where blocks share a tile
    gate           what multiplies pixels by a gate, in place
    tensor_maps    how the copy engine sees the operands
    footprint      what the kernel takes of a GPU

The instruction itself is in `intrinsics.wgmma`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from intrinsics import dtypes, wgmma
from schedules.conv.precision import FP16, INT8, UINT8
from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload
from schedules.families.wgmma import space as wgmma_space
from schedules.families.wgmma.config import WgmmaConfig
from schedules.families.wgmma.footprint import footprint
from schedules.families.wgmma.kernel import kernel
from schedules.families.wgmma.plan import Plan, corners
from schedules.families.wgmma.space import check
from schedules.family import Family, Given, Match, Reject, alone, fitting, other_operands
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

#: The copy engine's limits in im2col mode of four dimensions (CUDA's ``cuTensorMapEncodeIm2col``):
#: steps between pixels, taps, and corners of the box of first pixels.
MOST_STRIDE, MOST_OFFSET, CORNERS = 8, 255, range(-128, 128)


class WgmmaFamily(Family):
    """WGMMA with NHWC in and out."""

    name = "wgmma"
    config_type: type = WgmmaConfig
    tensorized = True
    version = 1
    default_measured = False

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Returns the best guess, or why the family declines."""
        reason = self._decline(w, hardware)
        if reason:
            return Reject(self.name, reason)
        # To have one: it is no measured default, so `schedules.choose` takes the best of the space.
        return fitting(self.name, next(self.space(w, hardware), None), hardware)

    def _decline(self, w: ConvWorkload, hardware: Hardware) -> str:
        """Why not, empty if it can."""
        if more := alone(w, gates=True):
            return more
        offsets = (w.dilation[0] * (w.r - 1), w.dilation[1] * (w.s - 1))
        if not hardware.has_wgmma:
            return f"its instruction is sm_90a's, this is {hardware.name}"
        if w.groups != 1:
            return f"{w.groups} groups"
        if w.in_layout.packed or w.out_layout.packed:
            return f"reads and writes NHWC, not {w.in_layout} and {w.out_layout}"
        if w.epilogue.residual_layout.packed:
            return f"the residual is laid out as {w.epilogue.residual_layout}"
        if reason := other_operands(w, FP16, INT8, UINT8):
            return reason
        least = wgmma.CHUNK_BYTES // dtypes.get(w.precision.x).bytes
        if w.c % least:
            return f"the copy engine moves {least} channels at least, of {w.c}"
        if max(w.stride) > MOST_STRIDE or max(offsets) > MOST_OFFSET:
            return f"stride {w.stride}, taps {offsets} apart: more than the copy engine steps"
        if any(corner not in CORNERS for corner in corners(w)):
            return f"padding {w.padding}, taps {offsets} apart: more than the copy engine pads"
        return ""

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[WgmmaConfig]:
        """Returns the configurations worth trying, the best guess first."""
        return wgmma_space.space(w, hardware)

    def check(self, w: ConvWorkload, config: WgmmaConfig, hardware: Hardware) -> None:
        """Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)

    def footprint(self, w: ConvWorkload, config: WgmmaConfig, hardware: Hardware) -> Footprint:
        """Returns what the kernel takes of a GPU."""
        return footprint(w, config, hardware)

    def schedule(self, w: ConvWorkload, config: WgmmaConfig, hardware: Hardware) -> tirx.PrimFunc:
        """Returns the kernel. Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)
        return kernel(w, config, hardware)

    def padded_macs(self, w: ConvWorkload, config: WgmmaConfig) -> int:
        """Returns the multiply-adds that the instructions carry out."""
        plan = Plan(w, config)
        return plan.tiles * config.rows * config.columns * plan.steps * plan.depth

    def signature(self, w: ConvWorkload, config: WgmmaConfig) -> Signature:
        """Returns the operands; the weight is (taps, chunks, K, depth)."""
        return Plan(w, config).signature

    def pack(self, w: ConvWorkload, config: WgmmaConfig, given: Given) -> dict[str, NDArray[Any]]:
        """Packs the weight (K, C, R, S) as (taps, chunks, K, depth): swizzled rows as shared memory
        has them, C and K padded with zeros; K in the order of `wgmma.adjacent_row` if the plan says
        so."""
        plan = Plan(w, config)
        taps, chunks, k, depth = plan.weight_shape
        padded = np.zeros((taps, k, chunks * depth), dtypes.get(w.precision.operands[1]).numpy)
        padded[:, plan.weight_rows, : w.c] = (
            given[WEIGHT].transpose(2, 3, 0, 1).reshape(taps, w.k, w.c)
        )
        width = wgmma.CHUNK_BYTES // padded.itemsize
        rows = padded.reshape(taps, k, chunks, depth // width, width).transpose(0, 2, 1, 3, 4)
        row, chunk = np.indices((k, depth // width))
        # The permutation is its own inverse: chunk j of a row lies at swizzled(j), and there too
        # lies what is to be found at j.
        swizzled = rows[:, :, row, wgmma.swizzled(row, chunk, plan.row_bytes)]
        packed = np.ascontiguousarray(swizzled.reshape(plan.weight_shape))
        return plan.signature.pack(given, weight=packed)
