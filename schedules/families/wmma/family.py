"""Convolution as an implicit GEMM on warp-wide matrix multiply-adds (WMMA).

One schedule, two families: `wmma_packed` writes NHWC16n16c, `wmma_nhwc` writes NHWC. A block
computes an (m, k) output tile. In each step its threads copy a tile of pixels (the gather) and a
tile of weights to shared memory. Each warp loads fragments from there and multiplies them into its
accumulators. At the end the accumulators go to shared memory, and from there through the epilogue
to the output, in vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from intrinsics.lower import LoweredIntrinsic, lower
from intrinsics.record import CPU_ONLY, TensorIntrinsic
from intrinsics.wmma import min_sm
from schedules.conv.gemm import Gemm, gemm_index, pack_weight
from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload
from schedules.expressions.backend import Backend, access_elements, backend
from schedules.expressions.compute import CONV, EPILOGUE, GATHER, OUT, implicit_gemm
from schedules.families.wmma import config as wmma_config
from schedules.families.wmma.config import WmmaConfig, check, gather_vector, guesses, instruction
from schedules.families.wmma.footprint import footprint
from schedules.family import Family, Given, Match, Reject, alone, fitting
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

#: Dynamic shared memory: more than the static 48 KB, and TVM lets the epilogue reuse the memory of
#: the operands' stages.
SHARED = "shared.dyn"
#: With fewer input channels in a group, more than half of each instruction would be padding.
FEWEST_CHANNELS = 8


class WmmaFamily(Family):
    """WMMA for outputs in one kind of layout, packed or NHWC."""

    config_type: type = WmmaConfig
    tensorized = True
    version = 1
    default_measured = False

    def __init__(self, name: str, packed: bool) -> None:
        self.name, self.packed = name, packed

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Takes groups of 8 or more channels and outputs in its layout; on a CPU also a gate."""
        if reason := alone(w, gates=hardware.kind == "llvm"):
            return Reject(self.name, reason)
        if w.groups != 1 and w.group_c < FEWEST_CHANNELS:
            what = f"{w.group_c} input channels per group, an instruction takes 16"
            return Reject(self.name, "depthwise" if w.depthwise else what)
        if w.out_layout.packed != self.packed:
            return Reject(self.name, f"the output is laid out as {w.out_layout}")
        if w.groups != 1 and w.out_layout.packed:
            return Reject(self.name, f"groups are written as NHWC, not as {w.out_layout}")
        if reason := _no_instruction(w, hardware):
            return Reject(self.name, reason)
        return fitting(self.name, next(guesses(w, hardware), None), hardware)

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[WmmaConfig]:
        """Yields configurations that pack the weight like the default."""
        return wmma_config.space(w, hardware)

    def check(self, w: ConvWorkload, config: WmmaConfig, hardware: Hardware) -> None:
        """Raises `ConfigError` with every rule that `config` breaks."""
        check(w, config, hardware)

    def footprint(self, w: ConvWorkload, config: WmmaConfig, hardware: Hardware) -> Footprint:
        """Returns the footprint, with instructions as counted in compiled kernels."""
        return footprint(w, config)

    def schedule(self, w: ConvWorkload, config: WmmaConfig, hardware: Hardware) -> tirx.PrimFunc:
        """Returns the scheduled function. Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)
        return _schedule(w, config, hardware)

    def padded_macs(self, w: ConvWorkload, config: WmmaConfig) -> int:
        """Returns the multiply-adds of all instructions, padding included."""
        return Gemm.of(w, config.tile).padded_macs

    def signature(self, w: ConvWorkload, config: WmmaConfig) -> Signature:
        """Returns the operands; the weight is as in `gemm.pack_weight`."""
        return Signature.of(w, Gemm.of(w, config.tile).weight_shape)

    def pack(self, w: ConvWorkload, config: WmmaConfig, given: Given) -> dict[str, NDArray[Any]]:
        """Packs the weight tile by tile."""
        weight = pack_weight(w, config.tile, given[WEIGHT])
        return self.signature(w, config).pack(given, weight=weight)


def _no_instruction(w: ConvWorkload, hardware: Hardware) -> str:
    """Returns the reason that no WMMA multiplies `w` on `hardware`, or ""."""
    own = w.precision
    first = min_sm(own.operands, own.accumulator)
    if first is None or own.split > 1:
        return f"no WMMA multiplies {own}"
    if hardware.kind == "cuda" and first == CPU_ONLY:
        return f"WMMA multiplies equal types, not {own}"
    if hardware.kind == "cuda" and hardware.sm < first:
        return f"{hardware.name} has no WMMA that multiplies {own}"
    return ""


# ---------------------------------------------------------------- the schedule, step by step


def _schedule(w: ConvWorkload, config: WmmaConfig, hardware: Hardware) -> tirx.PrimFunc:
    sch = Schedule(implicit_gemm(w, config.tile))
    target = backend(hardware)
    intrinsic = instruction(w, config)
    lowered = lower(intrinsic, hardware.form, SHARED)
    _flatten_output(sch, w)
    warp, step, inner = _tile(sch, config, target)
    _stage(sch, w, config, target, step)
    fragments = _fragments(sch, intrinsic, warp, inner)
    epilogue, out = sch.get_sblock(EPILOGUE), sch.get_sblock(OUT)
    target.write(sch, epilogue, out, _columns(w), w.precision.result)
    _tensorize(sch, intrinsic, lowered, fragments, step)
    target.pipeline(sch, step, config.stages, config.asynchronous)
    return sch.mod["main"]


def _columns(w: ConvWorkload) -> int:
    """Returns a number that every vector store has to divide: adjacent channels of one block."""
    if w.out_layout.packed:
        return w.out_layout.c
    return math.gcd(w.group_k, w.window.adjacent if w.window else 0)


def _flatten_output(sch: Schedule, w: ConvWorkload) -> None:
    """Turns the output's loops into those of the GEMM, ([g,] m, k)."""
    out = sch.get_sblock(OUT)
    if w.out_layout.packed:
        sch.transform_block_layout(
            out, lambda nb, p, q, kb, n, k: gemm_index(w, nb, p, q, kb, n, k)
        )
    elif w.groups > 1:
        sch.transform_block_layout(out, lambda n, p, q, g, k: gemm_index(w, n, p, q, g, k))
    else:
        sch.transform_block_layout(out, lambda n, p, q, k: gemm_index(w, n, p, q, k))


def _tile(sch: Schedule, config: WmmaConfig, target: Backend) -> tuple[LoopRV, LoopRV, LoopRV]:
    """Splits into blocks, warps and fragments.

    Returns the loops of a warp, of a reduction step, and of a fragment step.
    """
    fm, fk, fi = config.instruction
    g, m, k, o, i = sch.get_loops(sch.get_sblock(CONV))
    group, block_m, warp_m, m, in_m = sch.split(
        m, [None, config.swizzle, config.warps_m, config.fragments_m, fm]
    )
    block_k, warp_k, k, in_k = sch.split(k, [None, config.warps_k, config.fragments_k, fk])
    i_outer, i, in_i = sch.split(i, [None, config.chunk, fi])
    sch.reorder(g, group, block_k, block_m, warp_m, warp_k, o, i_outer, i, m, k, in_m, in_k, in_i)
    target.block(sch, sch.fuse(g, group, block_k, block_m))
    warp = sch.fuse(warp_m, warp_k)
    target.warp(sch, warp)
    return warp, sch.fuse(o, i_outer), i


def _stage(
    sch: Schedule, w: ConvWorkload, config: WmmaConfig, target: Backend, step: LoopRV
) -> None:
    """Copies both operands of a reduction step to shared memory, by the whole block."""
    gather = sch.get_sblock(GATHER)
    sch.set_scope(gather, 0, SHARED)
    weight = sch.cache_read(sch.get_sblock(CONV), 1, SHARED)
    # Keep unit loops, so that a copy always has the loops of its tile.
    sch.compute_at(gather, step, preserve_unit_loops=True)
    sch.compute_at(weight, step, preserve_unit_loops=True)
    target.copy(sch, gather, 2, config.warps, gather_vector(w, config.tile))
    target.copy(sch, weight, 4, config.warps, access_elements(w.precision.operands[1]))
    if config.pad:
        sch.storage_align(gather, 0, 2, config.tile.i, config.pad)


@dataclass(frozen=True)
class _Fragments:
    """The blocks that move fragments: loads of A and B, store of the accumulators."""

    a: SBlockRV
    b: SBlockRV
    accumulator: SBlockRV


def _fragments(
    sch: Schedule, intrinsic: TensorIntrinsic, warp: LoopRV, inner: LoopRV
) -> _Fragments:
    """Loads operands by fragment, and stores the accumulators through shared memory."""
    conv = sch.get_sblock(CONV)
    accumulator = sch.cache_write(conv, 0, intrinsic.accumulator_scope)
    sch.set_scope(accumulator, 0, SHARED)
    for block in (accumulator, sch.get_sblock(EPILOGUE), sch.get_sblock(OUT)):
        # Keep unit loops, so that an output of one pixel or channel has the same loops.
        sch.reverse_compute_at(block, warp, preserve_unit_loops=True)
    a = sch.cache_read(conv, 0, intrinsic.a_scope)
    b = sch.cache_read(conv, 1, intrinsic.b_scope)
    sch.compute_at(a, inner)
    sch.compute_at(b, inner)
    return _Fragments(a, b, accumulator)


def _tensorize(
    sch: Schedule,
    intrinsic: TensorIntrinsic,
    lowered: LoweredIntrinsic,
    fragments: _Fragments,
    step: LoopRV,
) -> None:
    conv = sch.get_sblock(CONV)
    init = sch.decompose_reduction(conv, step)
    sch.tensorize(sch.get_loops(init)[-2], lowered.fill)
    sch.tensorize(sch.get_loops(conv)[-3], lowered.mma)
    sch.tensorize(sch.get_loops(fragments.b)[-2], lowered.load_b)
    for block, (rows, columns), name in (
        (fragments.a, (intrinsic.m, intrinsic.k), lowered.load_a),
        (fragments.accumulator, (intrinsic.m, intrinsic.n), lowered.store),
    ):
        i, j = sch.get_loops(block)[-2:]
        (i, in_i), (j, in_j) = sch.split(i, [None, rows]), sch.split(j, [None, columns])
        sch.reorder(i, j, in_i, in_j)
        sch.tensorize(in_i, name)
