"""Configurations of the WMMA schedule: the knobs, the check, the space and the defaults."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from intrinsics import dtypes, wmma
from intrinsics.record import TensorIntrinsic
from schedules.conv.gemm import Gemm, Reduction, Tile, suits_columns
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.errors import ConfigError, passes, require_none
from schedules.expressions.backend import access_elements, vector_width
from schedules.machine.hardware import Hardware

#: Registers of addresses and loop counters, as compiled kernels have, in addition to fragments.
REGISTERS_BESIDE_FRAGMENTS = 40


@dataclass(frozen=True)
class WmmaConfig:
    """Knobs of the schedule.

    A block is `warps_m` x `warps_k` warps; a warp tile is `fragments_m` x `fragments_k` fragments.
    Both are (rows m, output channels k).
    """

    warps_m: int = 2
    warps_k: int = 2
    fragments_m: int = 2
    fragments_k: int = 2
    #: Fragments along the reduction in one stage of the pipeline.
    chunk: int = 2
    #: Stages of the pipeline; with 1, copies and products alternate.
    stages: int = 1
    #: True if copies are cp.async. Needs sm_80 and gathers of 16 bytes.
    asynchronous: bool = False
    #: Elements of padding in each row of the gathered tile, against bank conflicts.
    pad: int = 0
    #: Block order: number of blocks of rows that share a column of weights in L2.
    swizzle: int = 1
    #: Shape of the instruction.
    instruction: tuple[int, int, int] = (16, 16, 16)

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.warps_m * self.warps_k

    @cached_property
    def tile(self) -> Tile:
        """Output tile and k-block of a block."""
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
        text += f", swizzle {self.swizzle}" if self.swizzle > 1 else ""
        shape = "x".join(map(str, self.instruction))
        return text + (f", {shape}" if shape != "16x16x16" else "")


def shared_bytes(w: ConvWorkload, config: WmmaConfig) -> int:
    """Returns the shared memory of a block, in bytes.

    The epilogue reuses the memory of the operands' stages.
    """
    tile = config.tile
    gathered, weights = tile.m * (tile.i + config.pad), tile.i * tile.k
    x, weight = (dtypes.get(one).bytes for one in w.precision.operands)
    accumulated = tile.m * tile.k * dtypes.get(w.precision.accumulator).bytes
    return max(config.stages * (gathered * x + weights * weight), accumulated)


def fragment_registers(intrinsic: TensorIntrinsic, config: WmmaConfig) -> int:
    """Returns the 32-bit registers per thread of a warp's accumulators and operands."""
    m, k = config.fragments_m, config.fragments_k
    a, b, c = (intrinsic.registers(operand) for operand in "abc")
    return m * k * c + m * a + k * b


def instruction(w: ConvWorkload, config: WmmaConfig) -> TensorIntrinsic:
    """Returns the WMMA that multiplies. Raises ``LookupError`` if there is none."""
    return wmma.get(*config.instruction, w.precision.operands, w.precision.accumulator)


def check(w: ConvWorkload, config: WmmaConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` with every rule of the workload or hardware that `config` breaks."""
    sizes = (config.warps_m, config.warps_k, config.fragments_m, config.fragments_k)
    if min(*sizes, config.chunk, config.stages, config.swizzle) < 1 or config.pad < 0:
        raise ConfigError(f"{config}: every knob is at least 1, pad at least 0")
    try:
        intrinsic = instruction(w, config)
    except LookupError as error:
        raise ConfigError(str(error)) from None
    tile, threads = config.tile, config.warps * intrinsic.threads
    problems = []
    blocks_m = Gemm.of(w, tile).m_pad // tile.m if config.swizzle > 1 else 1
    if blocks_m % config.swizzle:
        problems.append(f"swizzle {config.swizzle} does not divide {blocks_m} blocks of rows")
    if w.out_layout.packed and tile.k % w.out_layout.c:
        problems.append(f"a tile of {tile.k} channels cuts a block of {w.out_layout}")
    if hardware.kind == "cuda":
        problems += _gpu_problems(w, config, hardware, intrinsic, threads)
    require_none(problems, config, w, hardware.name)


def _gpu_problems(
    w: ConvWorkload,
    config: WmmaConfig,
    hardware: Hardware,
    intrinsic: TensorIntrinsic,
    threads: int,
) -> list[str]:
    tile = config.tile
    problems = hardware.exceeded(
        threads,
        shared_bytes=shared_bytes(w, config),
        registers=fragment_registers(intrinsic, config) + REGISTERS_BESIDE_FRAGMENTS,
    )
    if config.asynchronous and not hardware.has_cp_async:
        problems.append("cp.async needs sm_80")
    if config.asynchronous and not gathers_whole(w, tile):
        problems.append("cp.async gathers 16 bytes, which takes channels divisible by 8")
    if config.asynchronous and config.stages == 1:
        problems.append("cp.async needs at least two stages")
    for name, elements, vector in (
        ("gathered", tile.m * tile.i, gather_vector(w, tile)),
        ("weight", tile.i * tile.k, access_elements(w.precision.operands[1])),
    ):
        if elements % (threads * vector):
            problems.append(f"{threads} threads do not share the {name} tile evenly")
    access = access_elements(w.precision.operands[0])
    if config.pad % access or (tile.i + config.pad) % access:
        problems.append(f"pad {config.pad} breaks 16-byte alignment")
    if tile.fragment_k % access_elements(w.precision.operands[1]):
        problems.append(f"a row of {tile.fragment_k} weights is not a multiple of 16 bytes")
    return problems


def gather_vector(w: ConvWorkload, tile: Tile) -> int:
    """Returns the number of elements that one access of the gather moves.

    They are adjacent channels; 1 if the reduction goes by rows.
    """
    if Reduction.of(w, tile.fragment_i).by_rows:
        return 1
    return vector_width(math.gcd(w.in_layout.c or w.c, w.group_c), access_elements(w.precision.x))


def gathers_whole(w: ConvWorkload, tile: Tile) -> bool:
    """Returns True if the gather moves 16 bytes at a time, as cp.async needs."""
    return gather_vector(w, tile) == access_elements(w.precision.x)


def fits(w: ConvWorkload, config: WmmaConfig, hardware: Hardware) -> bool:
    """Returns True if `check` raises nothing."""
    return passes(check, w, config, hardware)


#: Warps of a block and fragments of a warp, as (rows, columns), in a GPU's space.
GPU_WARPS = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4), (4, 2), (2, 4))
FRAGMENTS = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (2, 4), (4, 4))


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[WmmaConfig]:
    """Yields every configuration worth trying, each already checked.

    First the best guess, then those that pack the weight like it, so that buckets share it. All use
    cp.async if it is possible, pad rows, and take blocks row by row: a sweep over 14 convolutions
    on an H200 found no others among the fastest.
    """
    first = next(guesses(w, hardware), None)
    if first is None:
        return
    yield first
    gemm, cuda = Gemm.of(w, first.tile), hardware.kind == "cuda"
    ahead = cuda and hardware.has_cp_async
    warps = GPU_WARPS if cuda else ((1, 1),)
    # Steps of 16 only if no longer ones fit; for a packed input none longer than the guess.
    longer = (2,) if w.in_layout.packed else (2, 4, 8)
    chunks = [c for c in longer if round_up(gemm.reduction.inner, 16 * c) == gemm.i_pad]
    for (warps_m, warps_k), (m, k), chunk in itertools.product(warps, FRAGMENTS, chunks or (1,)):
        # Skip blocks of one fragment, and 8 warps that load fragments for one product each.
        if m * k == 1 and warps_m * warps_k in (1, 8):
            continue
        tile = replace(first, warps_m=warps_m, warps_k=warps_k, fragments_m=m, fragments_k=k)
        if round_up(gemm.k, tile.tile.k) > gemm.weight_columns or (
            cuda and not _few_rows(w, tile.tile)
        ):
            continue
        asynchronous = ahead and gathers_whole(w, tile.tile)
        # 3 first: the first is chosen if the model sees no difference.
        for stages in (3, 2, 4) if asynchronous else (1, 2) if cuda else (1,):
            config = replace(tile, chunk=chunk, stages=stages, asynchronous=asynchronous)
            if config != first and fits(w, config, hardware):
                yield config


def guesses(w: ConvWorkload, hardware: Hardware) -> Iterator[WmmaConfig]:
    """Yields configurations to start from that pass `check`, the best guess first."""
    if hardware.kind == "cuda":
        ranked = _gpu_guesses(w, hardware)
    elif hardware.vnni and dtypes.get(w.precision.accumulator).integer:
        ranked = _vnni_guesses(w)
    else:
        ranked = _cpu_guesses(w)
    return (config for config in ranked if fits(w, config, hardware))


def _chunk(w: ConvWorkload) -> int:
    """Returns the fragments of a k-block: as many as divide the channels evenly, 4 at most.

    2 at most for a packed input, where each 16 channels of a pixel lie apart. Never 3: indices that
    need a division make TVM gather a padded image one element at a time.
    """
    fragments = ceil_div(Reduction.of(w).inner, 16)
    most = 2 if w.in_layout.packed else 4
    return next(chunk for chunk in (4, 2, 1) if chunk <= most and fragments % chunk == 0)


#: Rows of a CPU's tile in fragments; the first that leaves four tiles or more is the best guess.
CPU_ROWS = (4, 2, 1)


def _cpu_guesses(w: ConvWorkload) -> Iterator[WmmaConfig]:
    """Yields tiles whose gather is cheap beside the products; rows by the size of the image."""
    rows = Gemm.of(w, Tile(16, 16, 16)).m
    columns = min(4, ceil_div(w.group_k, 16))
    instruction = _instruction(w)
    for fragments_m in CPU_ROWS:
        if rows >= 4 * 16 * fragments_m or fragments_m == CPU_ROWS[-1]:
            yield WmmaConfig(1, 1, fragments_m, columns, _chunk(w), instruction=instruction)


#: Columns of VNNI's tile in fragments, if they pad no more channels than 4 do. Against 4 they were
#: 5 to 20 % faster on the convolutions of ResNets, as each gathered row is used twice as often.
VNNI_COLUMNS = 8
#: Tiles that cores share, at least, if there are rows for them.
VNNI_TILES = 8


def _vnni_guesses(w: ConvWorkload) -> Iterator[WmmaConfig]:
    """Yields wide tiles: beside VNNI's products, copies of weights and pixels count for more."""
    config = next(_cpu_guesses(w))
    if round_up(w.group_k, 16 * VNNI_COLUMNS) == round_up(w.group_k, 64):
        config = replace(config, fragments_k=VNNI_COLUMNS)
    for fragments_m in CPU_ROWS:
        rows = replace(config, fragments_m=fragments_m)
        if Gemm.of(w, rows.tile).blocks >= VNNI_TILES or fragments_m == CPU_ROWS[-1]:
            yield rows


def _instruction(w: ConvWorkload) -> tuple[int, int, int]:
    """Returns the instruction with 8 columns for up to 8 output channels, which pads least."""
    narrow = w.group_k <= 8 and w.out_layout.c in (0, 8)
    return (32, 8, 16) if narrow else (16, 16, 16)


#: Tiles of a block as (warps_m, warps_k, fragments_m, fragments_k). The largest is first, as it
#: reads each operand the fewest times.
GPU_TILES = (
    (2, 2, 4, 4),  # 128 x 128
    (2, 2, 4, 2),  # 128 x 64
    (2, 2, 2, 4),  # 64 x 128
    (2, 2, 2, 2),  # 64 x 64
    (1, 2, 2, 2),  # 32 x 64
    (2, 2, 1, 1),  # 32 x 32
)
#: Tiles for few output channels, with an instruction of few columns.
NARROW_TILES = ((2, 1, 1, 1), (1, 1, 1, 1))
#: The last resort, for k-blocks of 16 channels, which give more threads nothing to copy.
ONE_WARP = (1, 1, 2, 2)
#: Blocks that keep an H200 busy. With fewer, the next smaller tile was faster in a sweep over
#: ResNet-18's layers at batch 1, 8, 32 and 128.
ENOUGH_BLOCKS = 96


def _gpu_guesses(w: ConvWorkload, hardware: Hardware) -> Iterator[WmmaConfig]:
    """Yields the largest tile that gives enough blocks and pads few channels."""
    tiles = [t for t in GPU_TILES if _suits(w, WmmaConfig(*t).tile)]
    enough = hardware.card.scaled(ENOUGH_BLOCKS)
    filling = [t for t in tiles if _blocks(w, t) >= enough]
    instruction, pad = _instruction(w), access_elements(w.precision.operands[0])
    shapes = [
        (tile, (16, 16, 16)) for tile in (*filling, *reversed(tiles), GPU_TILES[-1], ONE_WARP)
    ]
    if instruction != (16, 16, 16):
        shapes = [(tile, instruction) for tile in NARROW_TILES] + shapes
    for tile, shape in shapes:
        config = WmmaConfig(*tile, chunk=_chunk(w), pad=pad, instruction=shape)
        if config.tile.m == 32 and Reduction.of(w).inner % 128 == 0:
            # Few warps in a block: a longer k-block keeps as much in flight.
            config = replace(config, chunk=8)
        asynchronous = hardware.has_cp_async and gathers_whole(w, config.tile)
        # With two long stages of the largest tile, a multiprocessor of an H200 holds a third block:
        # a convolution of 256 images of 14 x 14, 256 to 512 channels, reached 377 TFLOP/s with
        # two stages and 349 with three, in one run.
        long = config.chunk == 4 and config.tile.m * config.tile.k >= 128 * 128
        for stages in ((2, 3) if long else (3, 2)) if asynchronous else (2,):
            yield replace(config, stages=stages, asynchronous=asynchronous)
        yield replace(config, stages=1)
        yield replace(config, stages=1, chunk=1)


def _suits(w: ConvWorkload, tile: Tile) -> bool:
    """Returns True if the tile pads channels by at most a third and its gather is cheap.

    Each row that is gathered element by element needs registers for its indices.
    """
    return _few_rows(w, tile) and suits_columns(w.group_k, tile.k)


def _few_rows(w: ConvWorkload, tile: Tile) -> bool:
    return tile.m <= 64 or gathers_whole(w, tile)


def _blocks(w: ConvWorkload, tile: tuple[int, int, int, int]) -> int:
    return Gemm.of(w, WmmaConfig(*tile).tile).blocks
