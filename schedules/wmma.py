"""Convolution as an implicit GEMM on warp-wide matrix multiply-adds (WMMA).

One schedule, two families: `wmma_packed` writes NHWC16n16c, `wmma_nhwc` writes NHWC. A block
computes a (m, k) tile of outputs. Per step of the reduction its threads copy a tile of pixels
(the gather) and a tile of weights to shared memory; each warp loads fragments from there and
multiplies them into accumulators it keeps. At the end accumulators go to shared memory, and from
there through the epilogue to the output in vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from tvm import tirx
from tvm.s_tir import Schedule

import intrinsics
from intrinsics.lower import LoweredIntrinsic, lower
from intrinsics.record import TensorIntrinsic
from schedules.backend import GPU_VECTOR, Backend, backend, vector_width
from schedules.compute import (
    CONV,
    EPILOGUE,
    GATHER,
    OUT,
    Gemm,
    Reduction,
    Tile,
    gemm_index,
    implicit_gemm,
    pack_bias,
    pack_weight,
)
from schedules.errors import ConfigError
from schedules.family import Match, Reject
from schedules.hardware import Hardware
from schedules.workload import ConvWorkload, ceil_div, round_up

#: Past the 48 KB of static shared memory, and the scope in which TVM overlays the epilogue's
#: staging on the operands' stages.
SHARED = "shared.dyn"
#: Registers that addresses and loop counters took in compiled kernels, beside the fragments.
REGISTERS_BESIDE_FRAGMENTS = 40


@dataclass(frozen=True)
class WmmaConfig:
    """Knobs of the schedule. A block is `warps_m` x `warps_k` warps, a warp's tile is
    `fragments_m` x `fragments_k` fragments, both of (rows m, output channels k)."""

    warps_m: int = 2
    warps_k: int = 2
    fragments_m: int = 2
    fragments_k: int = 2
    #: Fragments along the reduction that one pipeline stage holds.
    chunk: int = 2
    #: Buffers in shared memory; 1 copies and multiplies in turn.
    stages: int = 1
    #: Copies are cp.async and wait for no one. Needs sm_80 and 16-byte gathers.
    asynchronous: bool = False
    #: Halves that pad each row of the gathered tile, against bank conflicts.
    pad: int = 0
    #: Blocks of rows that share a column of weights before the next column is begun, for L2.
    swizzle: int = 1
    #: Shape of the instruction.
    instruction: tuple[int, int, int] = (16, 16, 16)

    @property
    def warps(self) -> int:
        return self.warps_m * self.warps_k

    @property
    def tile(self) -> Tile:
        m, n, k = self.instruction
        return Tile(
            self.warps_m * self.fragments_m * m,
            self.warps_k * self.fragments_k * n,
            self.chunk * k,
            fragment_i=k,
            fragment_k=n,
        )

    def __str__(self) -> str:
        text = f"{self.tile.m}x{self.tile.k}x{self.tile.i}, {self.warps_m}x{self.warps_k} warps"
        text += f", {self.stages} stages" + (" cp.async" if self.asynchronous else "")
        text += f", pad {self.pad}" if self.pad else ""
        return text + (f", swizzle {self.swizzle}" if self.swizzle > 1 else "")


def shared_bytes(w: ConvWorkload, config: WmmaConfig) -> int:
    """Shared memory of a block: the stages of both operands, or the epilogue laid over them."""
    tile = config.tile
    gathered, weights = tile.m * (tile.i + config.pad), tile.i * tile.k
    accumulated = tile.m * tile.k * (4 if w.accumulator_dtype == "float32" else 2)
    return max(config.stages * (gathered + weights) * 2, accumulated)


def fragment_registers(intrinsic: TensorIntrinsic, config: WmmaConfig) -> int:
    """32-bit registers per thread that hold a warp's accumulators and operands."""
    m, k = config.fragments_m, config.fragments_k
    a = intrinsic.m * intrinsic.k // 2 // intrinsic.threads
    b = intrinsic.n * intrinsic.k // 2 // intrinsic.threads
    return m * k * intrinsic.accumulator_registers() + m * a + k * b


def check(w: ConvWorkload, config: WmmaConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every rule of workload or hardware that `config` breaks."""
    sizes = (config.warps_m, config.warps_k, config.fragments_m, config.fragments_k)
    if min(*sizes, config.chunk, config.stages, config.swizzle) < 1 or config.pad < 0:
        raise ConfigError(f"{config}: every knob is at least 1, pad at least 0")
    try:
        intrinsic = intrinsics.get(*config.instruction, w.accumulator_dtype)
    except LookupError as error:
        raise ConfigError(str(error)) from None
    tile, threads = config.tile, config.warps * intrinsic.threads
    problems = []
    blocks_m = Gemm.of(w, tile).m_pad // tile.m
    if blocks_m % config.swizzle:
        problems.append(f"swizzle {config.swizzle} does not divide {blocks_m} blocks of rows")
    if w.out_layout.packed and tile.k % w.out_layout.c:
        problems.append(f"a tile of {tile.k} channels cuts a block of {w.out_layout}")
    if hardware.kind == "cuda":
        problems += _gpu_problems(w, config, hardware, intrinsic, threads)
    if problems:
        raise ConfigError(
            f"the configuration {config} does not fit {w} on {hardware.name}",
            note="; ".join(problems),
            hint="the family's space() gives those that fit",
        )


def _gpu_problems(
    w: ConvWorkload,
    config: WmmaConfig,
    hardware: Hardware,
    intrinsic: TensorIntrinsic,
    threads: int,
) -> list[str]:
    tile, problems = config.tile, []
    needed = shared_bytes(w, config)
    registers = fragment_registers(intrinsic, config) + REGISTERS_BESIDE_FRAGMENTS
    if needed > hardware.shared_bytes:
        problems.append(f"{needed} bytes of shared memory, a block has {hardware.shared_bytes}")
    if threads > hardware.max_threads:
        problems.append(f"{threads} threads, a block has at most {hardware.max_threads}")
    available = min(hardware.registers_per_thread, hardware.registers_per_block // threads)
    if registers > available:
        problems.append(f"{registers} registers, each of {threads} threads has {available}")
    if config.asynchronous and not hardware.has_cp_async:
        problems.append("cp.async needs sm_80")
    if config.asynchronous and gather_vector(w, tile) != GPU_VECTOR:
        problems.append("cp.async gathers 16 bytes, which takes channels divisible by 8")
    if config.asynchronous and config.stages == 1:
        problems.append("one stage has nothing to run ahead of")
    for name, elements, vector in (
        ("gathered", tile.m * tile.i, gather_vector(w, tile)),
        ("weight", tile.i * tile.k, GPU_VECTOR),
    ):
        if elements % (threads * vector):
            problems.append(f"{threads} threads do not share the {name} tile evenly")
    if config.pad % GPU_VECTOR or (tile.i + config.pad) % GPU_VECTOR:
        problems.append(f"pad {config.pad} breaks 16-byte alignment")
    return problems


def gather_vector(w: ConvWorkload, tile: Tile) -> int:
    """Halves that one access of the gather moves: adjacent channels, if i numbers channels."""
    if Gemm.of(w, tile).reduction.by_rows:
        return 1
    return vector_width(w.in_layout.c or w.c, GPU_VECTOR)


class WmmaFamily:
    """WMMA with outputs in one kind of layout."""

    tensorized = True

    def __init__(self, name: str, packed: bool) -> None:
        self.name, self.packed = name, packed

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        if w.groups != 1:
            what = "depthwise, one channel a sum" if w.depthwise else f"{w.groups} groups"
            return Reject(self.name, f"{what}: an implicit GEMM has one group")
        if w.out_layout.packed != self.packed:
            return Reject(self.name, f"the output is laid out as {w.out_layout}")
        if hardware.kind == "cuda" and hardware.sm < intrinsics.get(16, 16, 16).min_sm:
            return Reject(self.name, f"{hardware.name} has no tensor cores")
        config = next(self._ranked(w, hardware), None)
        if config is None:
            return Reject(self.name, f"no configuration fits {hardware.name}")
        return Match(self.name, config)

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[WmmaConfig]:
        """Every configuration that passes `check`, in no particular order."""
        cuda = hardware.kind == "cuda"
        warps = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (2, 4)) if cuda else ((1, 1),)
        asynchronous = cuda and hardware.has_cp_async
        for (warps_m, warps_k), m, k, chunk, stages, pad, swizzle in itertools.product(
            warps, (1, 2, 4), (1, 2, 4), (1, 2, 4), (1, 2, 3, 4) if cuda else (1,),
            (0, 8) if cuda else (0,), (1, 4),
        ):  # fmt: skip
            config = WmmaConfig(warps_m, warps_k, m, k, chunk, stages, False, pad, swizzle)
            if asynchronous and stages > 1 and gather_vector(w, config.tile) == GPU_VECTOR:
                config = replace(config, asynchronous=True)
            if fits(w, config, hardware):
                yield config

    def _ranked(self, w: ConvWorkload, hardware: Hardware) -> Iterator[WmmaConfig]:
        """Defaults, best guess first, those that fit."""
        guesses = _gpu_guesses(w, hardware) if hardware.kind == "cuda" else _cpu_guesses(w)
        return (config for config in guesses if fits(w, config, hardware))

    def schedule(self, w: ConvWorkload, config: WmmaConfig, hardware: Hardware) -> tirx.PrimFunc:
        check(w, config, hardware)
        return _schedule(w, config, hardware)

    def padded_macs(self, w: ConvWorkload, config: WmmaConfig) -> int:
        return Gemm.of(w, config.tile).padded_macs

    def pack(
        self, w: ConvWorkload, config: WmmaConfig, weight: NDArray[Any], bias: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        packed_bias = None if bias is None else pack_bias(w, config.tile, bias)
        return pack_weight(w, config.tile, weight), packed_bias


def fits(w: ConvWorkload, config: WmmaConfig, hardware: Hardware) -> bool:
    try:
        check(w, config, hardware)
    except ConfigError:
        return False
    return True


def _chunk(w: ConvWorkload) -> int:
    """Fragments of a reduction step: as many as go up evenly in the channels, 4 at most.

    Of a packed input 2: each 16 channels of a pixel lie in another place.
    """
    fragments = ceil_div(Reduction.of(w).inner, 16)
    most = 2 if w.in_layout.packed else 4
    return next(chunk for chunk in range(most, 0, -1) if fragments % chunk == 0)


def _cpu_guesses(w: ConvWorkload) -> Iterator[WmmaConfig]:
    """Wide enough that gathering is cheap beside multiplying; rows in proportion to the image."""
    rows = Gemm.of(w, Tile(16, 16, 16)).m
    columns = min(4, ceil_div(w.k, 16))
    for fragments_m in (4, 2, 1):
        if rows >= 4 * 16 * fragments_m or fragments_m == 1:
            yield WmmaConfig(1, 1, fragments_m, columns, _chunk(w))


#: Tiles of a block as (warps_m, warps_k, fragments_m, fragments_k), the largest first: it reads
#: each operand the fewest times.
GPU_TILES = (
    (2, 2, 4, 4),  # 128 x 128
    (2, 2, 4, 2),  # 128 x 64
    (2, 2, 2, 4),  # 64 x 128
    (2, 2, 2, 2),  # 64 x 64
    (1, 2, 2, 2),  # 32 x 64
    (2, 2, 1, 1),  # 32 x 32
)
#: The last resort: a step of 16 channels is too little to be copied by more threads.
ONE_WARP = (1, 1, 2, 2)
#: As many blocks keep a GPU of 132 multiprocessors (an H200) busy enough: with fewer, the next
#: smaller tile was faster in a sweep over ResNet-18's layers at batch 1, 8, 32 and 128.
ENOUGH_BLOCKS = 96


def _gpu_guesses(w: ConvWorkload, hardware: Hardware) -> Iterator[WmmaConfig]:
    """The largest tile that makes enough blocks and pads few channels, as many stages as fit."""
    tiles = [t for t in GPU_TILES if _suits(w, WmmaConfig(*t).tile)]
    filling = [t for t in tiles if _blocks(w, t) >= ENOUGH_BLOCKS]
    for tile in [*filling, *reversed(tiles), GPU_TILES[-1], ONE_WARP]:
        config = WmmaConfig(*tile, chunk=_chunk(w), pad=8)
        if config.tile.m == 32 and Reduction.of(w).inner % 128 == 0:
            # Few warps a block: longer steps, to have as much in flight.
            config = replace(config, chunk=8)
        asynchronous = hardware.has_cp_async and gather_vector(w, config.tile) == GPU_VECTOR
        for stages in (3, 2) if asynchronous else (2,):
            yield replace(config, stages=stages, asynchronous=asynchronous)
        yield replace(config, stages=1)
        yield replace(config, stages=1, chunk=1)


def _suits(w: ConvWorkload, tile: Tile) -> bool:
    """Whether the tile pads channels by a third at most, and gathers few rows where it has to do
    so element by element, with the indices of each in registers."""
    if gather_vector(w, tile) != GPU_VECTOR and tile.m > 64:
        return False
    return 3 * round_up(w.k, tile.k) <= 4 * round_up(w.k, 32)


def _blocks(w: ConvWorkload, tile: tuple[int, int, int, int]) -> int:
    gemm = Gemm.of(w, WmmaConfig(*tile).tile)
    return gemm.m_pad // gemm.tile.m * (gemm.k_pad // gemm.tile.k)


# ---------------------------------------------------------------- the schedule, step by step


def _schedule(w: ConvWorkload, config: WmmaConfig, hardware: Hardware) -> tirx.PrimFunc:
    sch = Schedule(implicit_gemm(w, config.tile))
    target = backend(hardware)
    intrinsic = intrinsics.get(*config.instruction, w.accumulator_dtype)
    lowered = lower(intrinsic, hardware.kind, SHARED)
    _flatten_output(sch, w)
    warp, step, inner = _tile(sch, config, target)
    _stage(sch, w, config, target, step)
    fragments = _fragments(sch, intrinsic, warp, inner)
    target.write(sch, sch.get_sblock(EPILOGUE), sch.get_sblock(OUT), _columns(w))
    _tensorize(sch, intrinsic, lowered, fragments, step)
    target.pipeline(sch, step, config.stages, config.asynchronous)
    return sch.mod["main"]


def _columns(w: ConvWorkload) -> int:
    """Innermost extent of the output: what a vector store has to divide."""
    return w.out_layout.c if w.out_layout.packed else w.k


def _flatten_output(sch: Schedule, w: ConvWorkload) -> None:
    """The output's loops become (m, k), those of the GEMM."""
    out = sch.get_sblock(OUT)
    if w.out_layout.packed:
        sch.transform_block_layout(
            out, lambda nb, p, q, kb, n, k: gemm_index(w, nb, p, q, kb, n, k)
        )
    else:
        sch.transform_block_layout(out, lambda n, p, q, k: gemm_index(w, n, p, q, k))


def _tile(sch: Schedule, config: WmmaConfig, target: Backend) -> tuple[Any, Any, Any]:
    """Blocks, warps, fragments. Gives the loops of a warp, a reduction step, a fragment step."""
    fm, fk, fi = config.instruction
    m, k, o, i = sch.get_loops(sch.get_sblock(CONV))
    group, block_m, warp_m, m, in_m = sch.split(
        m, [None, config.swizzle, config.warps_m, config.fragments_m, fm]
    )
    block_k, warp_k, k, in_k = sch.split(k, [None, config.warps_k, config.fragments_k, fk])
    i_outer, i, in_i = sch.split(i, [None, config.chunk, fi])
    sch.reorder(group, block_k, block_m, warp_m, warp_k, o, i_outer, i, m, k, in_m, in_k, in_i)
    target.block(sch, sch.fuse(group, block_k, block_m))
    warp = sch.fuse(warp_m, warp_k)
    target.warp(sch, warp)
    return warp, sch.fuse(o, i_outer), i


def _stage(sch: Schedule, w: ConvWorkload, config: WmmaConfig, target: Backend, step: Any) -> None:
    """Both operands of a reduction step go to shared memory, copied by the whole block."""
    gather = sch.get_sblock(GATHER)
    sch.set_scope(gather, 0, SHARED)
    weight = sch.cache_read(sch.get_sblock(CONV), 1, SHARED)
    # Unit loops stay, so that a copy always has the loops of its tile.
    sch.compute_at(gather, step, preserve_unit_loops=True)
    sch.compute_at(weight, step, preserve_unit_loops=True)
    target.copy(sch, gather, 2, config.warps, gather_vector(w, config.tile))
    target.copy(sch, weight, 4, config.warps, GPU_VECTOR)
    if config.pad:
        sch.storage_align(gather, 0, 1, config.tile.i, config.pad)


@dataclass(frozen=True)
class _Fragments:
    """Blocks that move fragments: loads of A and B, store of the accumulator."""

    a: Any
    b: Any
    accumulator: Any


def _fragments(sch: Schedule, intrinsic: TensorIntrinsic, warp: Any, inner: Any) -> _Fragments:
    """Operands are loaded fragment by fragment; the accumulator leaves through shared memory."""
    conv = sch.get_sblock(CONV)
    accumulator = sch.cache_write(conv, 0, intrinsic.accumulator_scope)
    sch.set_scope(accumulator, 0, SHARED)
    for block in (accumulator, sch.get_sblock(EPILOGUE), sch.get_sblock(OUT)):
        # An output of one pixel or one channel has its loops like any other.
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
    step: Any,
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
