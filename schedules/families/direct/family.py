"""Convolution by its definition, without tensor cores, for what no other family takes.

Each thread (or CPU vector) accumulates the taps of a few adjacent output channels in registers,
fp32 or int32. This is slow for most convolutions, so reports show why the other families declined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.s_tir import Schedule

from intrinsics import dtypes
from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.errors import require_none
from schedules.expressions.backend import CPU_VECTOR, GPU_ARITHMETIC, vector_width
from schedules.expressions.compute import CONV, OUT, direct, direct_weight_shape
from schedules.family import Family, Given, Match, Reject, alone
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import FP32, Footprint
from schedules.machine.hardware import Hardware


@dataclass(frozen=True)
class DirectConfig:
    """``vector``: adjacent output channels of one thread. ``threads``: of one GPU block."""

    vector: int = 1
    threads: int = 256

    def __str__(self) -> str:
        return f"{self.vector} channels a thread, {self.threads} threads"


def check(w: ConvWorkload, config: DirectConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` with every rule of the workload or hardware that `config` breaks."""
    problems = []
    if min(config.vector, config.threads) < 1:
        problems.append("knobs are at least 1")
    elif w.out_shape[-1] % config.vector:
        problems.append(f"{w.out_shape[-1]} channels are not a multiple of {config.vector}")
    if config.threads > 0:
        problems += hardware.exceeded(config.threads)
    require_none(problems, config, w, hardware.name)


#: Instructions of a thread: for its indices and its end; for one tap of one input channel, plus 2
#: for each output channel. Then iterations whose loads are in flight at a time.
PLACE, TAP, IN_FLIGHT = 80, 14, 4


def footprint(w: ConvWorkload, config: DirectConfig) -> Footprint:
    """Returns the footprint of a workload and configuration.

    Instructions as counted in the CUDA text. Not compared with measurements, as this family comes
    last anyway.
    """
    vectors = math.prod(w.out_shape) // config.vector
    steps = w.r * w.s * w.group_c
    warps = ceil_div(config.threads, 32)
    x, result = (dtypes.get(one).bytes for one in (w.precision.x, w.precision.result))
    written = config.threads * config.vector * result
    added = dtypes.get(w.precision.added).bytes if w.epilogue.residual else 0
    residual = config.threads * config.vector * added
    # Each value of a block's pixels and filters is read once.
    pixels = ceil_div(config.threads * config.vector, w.k_stored)
    filters = min(config.threads * config.vector, w.k_stored)
    return Footprint(
        blocks=ceil_div(vectors, config.threads),
        threads=config.threads,
        registers=32 + 2 * config.vector,
        shared_bytes=0,
        unit=FP32,
        operand=dtypes.FP32.name,
        macs=config.threads * config.vector * steps,
        instructions=warps * (PLACE + steps * (TAP + 2 * config.vector)),
        shared_traffic=config.threads * steps * (x + x * config.vector) + written + residual,
        read_bytes=x * steps * (pixels + filters) + residual,
        written_bytes=written,
        dram_bytes=moved_bytes(w),
        steps=steps,
        ahead=IN_FLIGHT,
    )


class DirectFamily(Family):
    """Takes every convolution without a prologue or a pool."""

    name = "direct"
    version = 1
    default_measured = False
    config_type: type = DirectConfig
    tensorized = False
    last_resort = True

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Takes convolutions of every precision without split operands, prologue or pool."""
        if reason := alone(w, gates=True):
            return Reject(self.name, reason)
        if w.precision.split > 1:
            return Reject(self.name, f"{w.precision}: not its precision")
        return Match(self.name, next(self.space(w, hardware)))

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[DirectConfig]:
        """Yields widest vectors first: lanes read one input channel, or adjacent ones."""
        group_k = w.k // w.groups
        adjacent = w.depthwise and group_k == 1
        uniform = w.out_shape[-1] if w.groups == 1 or adjacent else group_k
        widest = GPU_ARITHMETIC if hardware.kind == "cuda" else CPU_VECTOR
        adjacent_out = w.window.adjacent if w.window else 0
        vector = vector_width(math.gcd(uniform, w.out_shape[-1], adjacent_out), widest)
        while vector and w.out_shape[-1] % vector == 0:
            for threads in (256, 128, 64) if hardware.kind == "cuda" else (1,):
                yield DirectConfig(vector, threads)
            vector //= 2

    def check(self, w: ConvWorkload, config: DirectConfig, hardware: Hardware) -> None:
        """Raises `ConfigError` with every rule that `config` breaks."""
        check(w, config, hardware)

    def footprint(self, w: ConvWorkload, config: DirectConfig, hardware: Hardware) -> Footprint:
        """Returns the footprint, with instructions as counted in the CUDA text."""
        return footprint(w, config)

    def schedule(self, w: ConvWorkload, config: DirectConfig, hardware: Hardware) -> tirx.PrimFunc:
        """Returns the scheduled function. Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)
        sch = Schedule(direct(w))
        conv, out = sch.get_sblock(CONV), sch.get_sblock(OUT)
        *pixels, channels, r, s, c = sch.get_loops(conv)
        channels, lane = sch.split(channels, [None, config.vector])
        if hardware.kind == "cuda":
            block, thread = sch.split(sch.fuse(*pixels, channels), [None, config.threads])
            sch.bind(block, "blockIdx.x")
            sch.bind(thread, "threadIdx.x")
            sch.set_scope(conv, 0, "local")
        else:
            # Rows of the image in parallel; a row's pixels reuse the filter from cache. The scope
            # stays global: TVM keeps only small buffers of that scope on the stack.
            thread = channels
            sch.parallel(sch.fuse(*pixels[:2]))
        sch.reorder(r, s, c, lane)
        if hardware.kind == "cuda" and dtypes.get(w.precision.accumulator).integer:
            # TVM has no CUDA form of the vector of one integer that a product would take.
            weight = sch.cache_read(conv, 1, "local")
            sch.compute_at(weight, c, preserve_unit_loops=True)
            sch.vectorize(sch.get_loops(weight)[-1])
            sch.unroll(lane)
        else:
            sch.vectorize(lane)
        sch.reverse_compute_at(out, thread, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(out)[-1])
        sch.decompose_reduction(conv, r)
        return sch.mod["main"]

    def padded_macs(self, w: ConvWorkload, config: DirectConfig) -> int:
        """Returns the multiply-adds of whole blocks of a packed layout."""
        images = round_up(w.n, w.out_layout.n)
        return w.useful_macs // (w.n * w.k) * images * w.k_stored

    def signature(self, w: ConvWorkload, config: DirectConfig) -> Signature:
        """Returns the operands; the weight has `direct_weight_shape`."""
        return Signature.of(w, direct_weight_shape(w))

    def pack(self, w: ConvWorkload, config: DirectConfig, given: Given) -> dict[str, NDArray[Any]]:
        """Packs the weight as (R, S, C/groups, K)."""
        packed = np.zeros(direct_weight_shape(w), dtypes.get(w.precision.operands[1]).numpy)
        packed[..., : w.k] = given[WEIGHT].transpose(2, 3, 1, 0)
        return self.signature(w, config).pack(given, weight=packed)
