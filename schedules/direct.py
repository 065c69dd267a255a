"""Convolution by its definition, without tensor cores: whatever no other family takes.

Each thread (or CPU vector) sums the taps of a few adjacent output channels in fp32 registers.
Most convolutions lose a lot by it, so those that decline before it say why it was needed.
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

from schedules.backend import CPU_VECTOR, GPU_ARITHMETIC, vector_width
from schedules.compute import CONV, OUT, direct
from schedules.errors import require_none
from schedules.family import Match
from schedules.hardware import Hardware
from schedules.workload import ConvWorkload, round_up


@dataclass(frozen=True)
class DirectConfig:
    """``vector``: adjacent output channels of one thread. ``threads``: of one GPU block."""

    vector: int = 1
    threads: int = 256

    def __str__(self) -> str:
        return f"{self.vector} channels a thread, {self.threads} threads"


def check(w: ConvWorkload, config: DirectConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every rule of workload or hardware that `config` breaks."""
    problems = []
    if min(config.vector, config.threads) < 1:
        problems.append("knobs are at least 1")
    elif w.out_shape[-1] % config.vector:
        problems.append(f"{w.out_shape[-1]} channels are no multiple of {config.vector}")
    if config.threads > hardware.max_threads:
        problems.append(f"{config.threads} threads, a block has at most {hardware.max_threads}")
    require_none(problems, config, w, hardware.name)


class DirectFamily:
    """Matches every convolution."""

    name = "direct"
    version = 1
    tensorized = False

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match:
        return Match(self.name, next(self.space(w, hardware)))

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[DirectConfig]:
        """Widest vectors first: those whose lanes read one input channel, or adjacent ones."""
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
        check(w, config, hardware)

    def schedule(self, w: ConvWorkload, config: DirectConfig, hardware: Hardware) -> tirx.PrimFunc:
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
            # Rows of the image in parallel; a row's pixels reuse its filter from cache. The scope
            # stays global: TVM keeps only small buffers of that scope on a CPU's stack.
            thread = channels
            sch.parallel(sch.fuse(*pixels[:2]))
        sch.reorder(r, s, c, lane)
        sch.vectorize(lane)
        sch.reverse_compute_at(out, thread, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(out)[-1])
        sch.decompose_reduction(conv, r)
        return sch.mod["main"]

    def padded_macs(self, w: ConvWorkload, config: DirectConfig) -> int:
        images = round_up(w.n, w.out_layout.n)
        return w.useful_macs // (w.n * w.k) * images * w.k_stored

    def pack(self, w: ConvWorkload, config: DirectConfig, weight: NDArray[Any]) -> NDArray[Any]:
        packed = np.zeros((w.r, w.s, w.group_c, w.k_stored), np.float16)
        packed[..., : w.k] = weight.transpose(2, 3, 1, 0)
        return packed
