"""Depthwise convolution: one filter per channel, no sum over channels, limited by memory.

A thread computes a tile of adjacent output pixels for a vector of adjacent channels. For each
filter row it loads, once and in vectors, the taps and the patch of the input that the tile reads.
Accumulators are registers, fp32 or int32. Adjacent threads read adjacent vectors. The tiles of a
block are next to each other, so that their overlapping patches come from L1. On a CPU a block is
one thread, and a vector is one register.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx
from tvm.ir import Expr
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from intrinsics import dtypes
from intrinsics.dtypes import FP32
from schedules.conv.signature import RESIDUAL, WEIGHT, Signature, X, channel_operands
from schedules.conv.workload import ConvWorkload
from schedules.expressions.backend import GPU_ARITHMETIC
from schedules.expressions.compute import CONV, EPILOGUE, OUT, finish, function, placeholders
from schedules.families.depthwise.config import (
    UNROLLED,
    DepthwiseConfig,
    by_row,
    check,
    default,
    padded_pixels,
    space,
)
from schedules.families.depthwise.footprint import footprint
from schedules.family import Family, Given, Match, Reject, alone
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

#: The block that loads the input, with zeros in the padding.
PATCH = "patch"


class DepthwiseFamily(Family):
    """Takes NHWC convolutions with one filter for each channel."""

    name = "depthwise"
    version = 1
    default_measured = False
    config_type: type = DepthwiseConfig
    tensorized = False

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Takes depthwise convolutions of NHWC without multiplier, of floats or 8-bit integers."""
        if reason := alone(w):
            return Reject(self.name, reason)
        if not _multiplied(w):
            return Reject(self.name, f"{w.precision}: not its precision")
        if not w.depthwise:
            return Reject(self.name, f"not depthwise: {w.groups} groups of {w.group_c} channels")
        if w.k != w.c:
            return Reject(self.name, f"{w.k // w.c} output channels per input channel")
        layouts = [w.in_layout, w.out_layout] + [w.epilogue.residual_layout] * w.epilogue.residual
        for layout in layouts:
            if layout.packed:
                return Reject(self.name, f"NHWC only, not {layout}")
        return Match(self.name, default(w, hardware))

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[DepthwiseConfig]:
        """Yields tiles of several shapes and block sizes."""
        return space(w, hardware)

    def check(self, w: ConvWorkload, config: DepthwiseConfig, hardware: Hardware) -> None:
        """Raises `ConfigError` with every rule that `config` breaks."""
        check(w, config, hardware)

    def footprint(self, w: ConvWorkload, config: DepthwiseConfig, hardware: Hardware) -> Footprint:
        """Returns the footprint, with instructions as counted in compiled kernels."""
        return footprint(w, config)

    def schedule(
        self, w: ConvWorkload, config: DepthwiseConfig, hardware: Hardware
    ) -> tirx.PrimFunc:
        """Returns the scheduled function. Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)
        return _schedule(w, config, hardware)

    def padded_macs(self, w: ConvWorkload, config: DepthwiseConfig) -> int:
        """Returns the multiply-adds of whole blocks."""
        p_pad, q_pad = padded_pixels(w, config)
        return w.useful_macs // (w.p * w.q) * p_pad * q_pad

    def signature(self, w: ConvWorkload, config: DepthwiseConfig) -> Signature:
        """Returns the operands; the weight is (R, S, C)."""
        return signature(w)

    def pack(
        self, w: ConvWorkload, config: DepthwiseConfig, given: Given
    ) -> dict[str, NDArray[Any]]:
        """Packs the weight (C, 1, R, S) as (R, S, C)."""
        dtype = dtypes.get(w.precision.operands[1]).numpy
        taps = np.ascontiguousarray(given[WEIGHT][:, 0].transpose(1, 2, 0), dtype)
        return signature(w).pack(given, weight=taps)


def _multiplied(w: ConvWorkload) -> bool:
    """Returns True for floats, which are multiplied in fp32, and for 8-bit integers, in int32."""
    own = w.precision
    integers = [dtypes.get(one).integer for one in (own.x, *own.operands, own.accumulator)]
    return own.split == 1 and (all(integers) or not any(integers))


def signature(w: ConvWorkload) -> Signature:
    """Returns the operands of a depthwise kernel; the weight is (R, S, C)."""
    return Signature.of(w, (w.r, w.s, w.c))


# ---------------------------------------------------------------- the tensor expression


def depthwise(w: ConvWorkload, config: DepthwiseConfig) -> tirx.PrimFunc:
    """Returns the convolution as a function of its operands, accumulated in fp32 or int32.

    Accumulators cover whole blocks, so that no thread needs a bounds check for them. y has only its
    own pixels.
    """
    p_pad, q_pad = padded_pixels(w, config)
    height = (p_pad - 1) * w.stride[0] + (w.r - 1) * w.dilation[0] + 1
    width = (q_pad - 1) * w.stride[1] + (w.s - 1) * w.dilation[1] + 1
    operands = placeholders(signature(w))
    accumulator = w.precision.accumulator
    wide = accumulator if dtypes.get(accumulator).integer else FP32.name
    patch = te.compute(
        (w.n, height, width, w.c),
        lambda n, h, v, c: _input(w, operands[X], n, h, v, c, height, width),
        name=PATCH,
    )
    r, s = te.reduce_axis((0, w.r), "r"), te.reduce_axis((0, w.s), "s")

    def conv(n: Expr, p: Expr, q: Expr, k: Expr) -> Expr:
        h, v = p * w.stride[0] + r * w.dilation[0], q * w.stride[1] + s * w.dilation[1]
        tap = operands[WEIGHT][r, s, k].astype(wide)
        value = patch[n, h, v, k].astype(w.precision.operands[0]).astype(wide)
        return te.sum(value * tap, [r, s])

    sums = te.compute((w.n, p_pad, q_pad, w.c), conv, name=CONV)
    epilogue = te.compute(
        w.out_shape,
        lambda *at: finish(w, operands, sums(*at), at),
        name=EPILOGUE,
    )
    y = te.compute(w.out_shape, lambda *at: epilogue(*at), name=OUT)
    return function(w, operands, y)


def _input(
    w: ConvWorkload,
    x: te.Tensor,
    n: Expr,
    h: Expr,
    v: Expr,
    c: Expr,
    height: int,
    width: int,
) -> Expr:
    """Returns an element of x padded to `height` by `width`; zero outside, without reading.

    One condition without branches for a whole vector, from which nvcc makes a predicated load.
    """
    top, left = w.padding[:2]
    inside = [
        condition
        for needed, condition in (
            (top > 0, h >= top),
            (height > top + w.h, h < top + w.h),
            (left > 0, v >= left),
            (width > left + w.w, v < left + w.w),
        )
        if needed
    ]
    value = x[n, h - top, v - left, c]
    if not inside:
        return value
    condition = reduce(tirx.bitwise_and, inside)
    return tirx.if_then_else(condition, value, tirx.const(0, w.precision.x))


# ---------------------------------------------------------------- the schedule, step by step


def _schedule(w: ConvWorkload, config: DepthwiseConfig, hardware: Hardware) -> tirx.PrimFunc:
    sch = Schedule(depthwise(w, config))
    on_gpu = hardware.kind == "cuda"
    thread = _tile(sch, config, on_gpu)
    # On a CPU the stack takes the place of registers; TVM puts only buffers of global scope there.
    _load(sch, w, "local" if on_gpu else "global")
    if on_gpu:
        _write_gpu(sch, w, thread)
    else:
        _write_cpu(sch, thread)
    _sum(sch, w, thread, on_gpu)
    return sch.mod["main"]


def _tile(sch: Schedule, config: DepthwiseConfig, on_gpu: bool) -> LoopRV:
    """Splits into blocks, threads and tiles. Returns the innermost loop over threads."""
    n, p, q, k, r, s = sch.get_loops(sch.get_sblock(CONV))
    p, down, row = sch.split(p, [None, config.down, config.rows])
    q, across, column = sch.split(q, [None, config.across, config.columns])
    k, lane, channel = sch.split(k, [None, config.lanes, config.vector])
    sch.reorder(n, p, q, k, down, across, lane, r, s, row, column, channel)
    if on_gpu:
        sch.bind(sch.fuse(n, p, q, k), "blockIdx.x")
        # Three dimensions instead of one, so that no address needs a division.
        for loop, axis in ((down, "z"), (across, "y"), (lane, "x")):
            sch.bind(loop, f"threadIdx.{axis}")
    else:
        sch.parallel(sch.fuse(n, p))
    return lane


def _load(sch: Schedule, w: ConvWorkload, scope: str) -> None:
    """Loads the patch and taps of a filter row, or of one tap, in vectors."""
    conv, patch = sch.get_sblock(CONV), sch.get_sblock(PATCH)
    r, s = sch.get_loops(conv)[-5:-3]
    sch.set_scope(conv, 0, scope)
    sch.set_scope(patch, 0, scope)
    for block in (patch, sch.cache_read(conv, 1, scope)):
        sch.compute_at(block, r if by_row(w) else s, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(block)[-1])
        _unroll(sch, block, r)


def _write_gpu(sch: Schedule, w: ConvWorkload, thread: LoopRV) -> None:
    """Does the epilogue in registers; loads and stores are vectors of up to 16 bytes."""
    epilogue, out = sch.get_sblock(EPILOGUE), sch.get_sblock(OUT)
    sch.set_scope(epilogue, 0, "local")
    sch.reverse_compute_at(epilogue, thread, preserve_unit_loops=True)
    sch.reverse_compute_at(out, thread, preserve_unit_loops=True)
    reads = [region.source.name for region in sch.get(epilogue).reads]
    vectors = [(out, w.precision.result)]
    for name in (RESIDUAL, *channel_operands(w)):
        if name in reads:
            block = sch.cache_read(epilogue, reads.index(name), "local")
            pixel = sch.get_loops(epilogue)[-2]
            sch.compute_at(block, pixel if name == RESIDUAL else thread, preserve_unit_loops=True)
            vectors.append((block, signature(w)[name].dtype))
    for block, dtype in vectors:
        *_, lane = sch.get_loops(block)
        if dtype == FP32.name:
            _, lane = sch.split(lane, [None, min(sch.get(lane).extent, GPU_ARITHMETIC)])
        sch.vectorize(lane)
        _unroll(sch, block, thread)
    _unroll(sch, epilogue, thread)


def _write_cpu(sch: Schedule, thread: LoopRV) -> None:
    out = sch.get_sblock(OUT)
    sch.compute_inline(sch.get_sblock(EPILOGUE))
    sch.reverse_compute_at(out, thread, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(out)[-1])
    _unroll(sch, out, thread)


def _sum(sch: Schedule, w: ConvWorkload, thread: LoopRV, on_gpu: bool) -> None:
    """Keeps every accumulator in a register: all loops are unrolled except over large filters."""
    conv = sch.get_sblock(CONV)
    r, s, _row, _column, channel = sch.get_loops(conv)[-5:]
    if not on_gpu:
        # Not on a GPU, whose arithmetic is scalar.
        sch.vectorize(channel)
    init = sch.decompose_reduction(conv, r)
    _unroll(sch, init, thread)
    _unroll(sch, conv, s)
    for loop, taps in ((r, w.r), (s, w.s)):
        if taps <= UNROLLED:
            sch.unroll(loop)


def _unroll(sch: Schedule, block: SBlockRV, outside: LoopRV) -> None:
    """Unrolls all serial loops of the block inside the loop `outside`."""
    loops = sch.get_loops(block)
    start = next(i for i, loop in enumerate(loops) if sch.get(loop).same_as(sch.get(outside)))
    for loop in loops[start + 1 :]:
        if sch.get(loop).kind == tirx.ForKind.SERIAL:
            sch.unroll(loop)
