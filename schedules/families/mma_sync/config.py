"""The knobs of the mma.sync schedule: what they are, which fit, and which to start from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from intrinsics.mma_sync import M16N8K16
from schedules.conv.gemm import Gemm, Reduction, Tile, stored_columns
from schedules.conv.signature import Signature
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.errors import ConfigError, passes, require_none
from schedules.machine.gpus import H200, Card
from schedules.machine.hardware import Hardware

#: Registers that addresses and loop counters took in compiled kernels, beside the fragments.
REGISTERS_BESIDE_FRAGMENTS = 40
#: Floats between two rows of 32 partial sums in shared memory: 4 more, against bank conflicts.
SUMS_STRIDE = 36
#: Filter taps that a row's mask of valid taps has bits for.
MOST_TAPS = 32


@dataclass(frozen=True)
class MmaSyncConfig:
    """Knobs of the schedule. A block is `warps_m` x `warps_k` x `warps_i` warps; the tile of a
    warp is `fragments_m` x `fragments_k` fragments of 16 rows and 16 output channels."""

    warps_m: int = 2
    warps_k: int = 2
    fragments_m: int = 4
    fragments_k: int = 4
    #: Fragments of 16 along the reduction that one pipeline stage holds.
    chunk: int = 4
    #: Buffers in shared memory.
    stages: int = 3
    #: Warps that split each stage's reduction among them, and add through shared memory.
    warps_i: int = 1
    #: Blocks of a cluster that split the whole reduction among them, and add in their order.
    split: int = 1
    #: Blocks of rows that share a column of weights before the next column is begun, for L2.
    swizzle: int = 1

    @property
    def warps(self) -> int:
        return self.warps_m * self.warps_k * self.warps_i

    @property
    def threads(self) -> int:
        return self.warps * M16N8K16.threads

    @property
    def tile(self) -> Tile:
        m, k = self.warps_m * self.fragments_m, self.warps_k * self.fragments_k
        return Tile(m * 16, k * 16, self.chunk * 16)

    @property
    def adds_up(self) -> bool:
        """Whether partial sums of several warps or blocks are added."""
        return self.warps_i * self.split > 1

    def __str__(self) -> str:
        text = f"{self.tile.m}x{self.tile.k}x{self.tile.i}, {self.warps_m}x{self.warps_k}"
        text += f"x{self.warps_i}" if self.warps_i > 1 else ""
        text += f" warps, {self.stages} stages cp.async"
        text += f", split {self.split}" if self.split > 1 else ""
        return text + (f", swizzle {self.swizzle}" if self.swizzle > 1 else "")


def stage_halves(config: MmaSyncConfig) -> int:
    """fp16 elements of one stage: a tile of pixels, then a tile of weights."""
    return (config.tile.m + config.tile.k) * config.tile.i


def shared_bytes(config: MmaSyncConfig) -> int:
    """Shared memory of a block: the stages, or the partial sums that are laid over them."""
    stages = config.stages * stage_halves(config) * 2
    sums = config.warps_i * config.tile.m * config.tile.k // 32 * SUMS_STRIDE * 4
    return max(stages, sums if config.adds_up else 0)


def fragment_registers(config: MmaSyncConfig) -> int:
    """32-bit registers per thread that hold accumulators and two sets of operands."""
    m, k = config.fragments_m, config.fragments_k
    return m * k * 8 + 2 * 4 * (m + k)


def gemm_of(w: ConvWorkload, config: MmaSyncConfig) -> Gemm:
    """The implicit GEMM. Its taps are padded to 16 channels each, whatever the stages hold: these
    are filled without regard to where a tap ends."""
    return Gemm.of(w, replace(config.tile, i=16))


def signature(w: ConvWorkload, config: MmaSyncConfig) -> Signature:
    """Returns the operands of the kernel."""
    return Signature.of(w, gemm_of(w, config).weight_shape)


def fragments_i(gemm: Gemm) -> int:
    """Fragments along the whole reduction."""
    return gemm.reduction.outer * gemm.i_pad // 16


def steps(w: ConvWorkload, config: MmaSyncConfig) -> int:
    """Stages that the whole reduction takes."""
    return ceil_div(fragments_i(gemm_of(w, config)), config.chunk)


def check(w: ConvWorkload, config: MmaSyncConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every rule of workload or hardware that `config` breaks."""
    sizes = (config.warps_m, config.warps_k, config.fragments_m, config.fragments_k)
    if min(*sizes, config.chunk, config.warps_i, config.split, config.swizzle) < 1:
        raise ConfigError(f"{config}: every knob is at least 1")
    problems = list(_shape_problems(w, config))
    problems += hardware.exceeded(
        config.threads,
        shared_bytes=shared_bytes(config),
        registers=fragment_registers(config) + REGISTERS_BESIDE_FRAGMENTS,
        cluster=config.split,
    )
    require_none(problems, config, w, hardware.name)


def _shape_problems(w: ConvWorkload, config: MmaSyncConfig) -> Iterator[str]:
    tile, blocks_m = config.tile, gemm_of(w, config).m_pad // config.tile.m
    if blocks_m % config.swizzle:
        yield f"swizzle {config.swizzle} does not divide {blocks_m} blocks of rows"
    if config.fragments_k % 2:
        yield "a warp stores 32 channels at a time, so fragments_k is even"
    if config.stages < 2:
        yield "copies run a stage ahead, which takes two"
    if config.chunk not in (1, 2, 4, 8):
        yield "rows of shared memory are swizzled in 32, 64, 128 or 256 bytes"
    if config.chunk % (2 * config.warps_i):
        yield "two sets of fragments take turns, so a warp has an even number of each stage"
    if config.split > steps(w, config):
        yield f"{steps(w, config)} steps are not split among {config.split} blocks"
    for name, elements in (("gathered", tile.m * tile.i), ("weight", tile.k * tile.i)):
        if elements // 8 % config.threads:
            yield f"{config.threads} threads do not share the {name} tile evenly"


def fits(w: ConvWorkload, config: MmaSyncConfig, hardware: Hardware) -> bool:
    return passes(check, w, config, hardware)


#: Tiles of a block as (warps_m, warps_k, fragments_m, fragments_k, warps_i), and how many TFLOP/s
#: an H200 reached with each where there were blocks for all of it.
GPU_TILES = {
    (2, 4, 4, 4, 1): 480.0,  # 128 x 256
    (4, 2, 4, 4, 1): 446.0,  # 256 x 128
    (2, 2, 4, 4, 1): 479.0,  # 128 x 128
    (2, 2, 4, 2, 1): 360.0,  # 128 x 64
    (2, 2, 2, 2, 1): 274.0,  # 64 x 64
    (2, 1, 2, 2, 2): 200.0,  # 64 x 32
    (1, 2, 2, 2, 2): 200.0,  # 32 x 64
    (2, 1, 1, 2, 2): 140.0,  # 32 x 32
    (1, 1, 1, 2, 4): 90.0,  # 16 x 32
}
#: On the same GPU: microseconds that 64 of the reduction take besides multiplications, where no
#: other block fills the gap, and the TFLOP/s of these then; microseconds that a cluster takes to
#: start together and to add up, and each of its blocks.
STEP_US, ALONE_TFLOPS, CLUSTER_US, RANK_US = 0.07, 3.0, 2.0, 0.15
#: Blocks that splitting the reduction may make on it: with more, clusters were seen to wait for
#: each other.
MOST_BLOCKS = 112


def guesses(w: ConvWorkload, hardware: Hardware) -> Iterator[MmaSyncConfig]:
    """Those to start from, the best guess first, that pass `check`."""
    return (config for config in _ranked(w, hardware) if fits(w, config, hardware))


def _ranked(w: ConvWorkload, hardware: Hardware) -> Iterator[MmaSyncConfig]:
    """By `estimate_us`, each with as many stages as fit; then what fits where nothing of that does.

    Weights are stored in as many columns as the widest tile of `gemm.TILES_K` reads, and tiles
    that read more are left out, so that buckets share them.
    """
    chunk, most = _chunk(w), hardware.card.scaled(MOST_BLOCKS)
    tried: list[tuple[float, MmaSyncConfig]] = []
    for warps_m, warps_k, m, k, warps_i in GPU_TILES:
        if chunk == 4:
            config = MmaSyncConfig(warps_m, warps_k, m, k, max(4, 2 * warps_i), 4, warps_i)
        else:
            config = MmaSyncConfig(warps_m, warps_k, m, k, chunk, 4)
        gemm = gemm_of(w, config)
        if gemm.k_pad > stored_columns(w.group_k):
            continue
        for split in (1, 2, 4, 8):
            if split == 1 or gemm.blocks * split <= most:
                one = replace(config, split=split)
                tried.append((estimate_us(w, one, hardware.card), one))
    for _, config in sorted(tried, key=lambda one: one[0]):
        # Three stages of 128 x 128 leave room for a second block on the multiprocessor; of other
        # large tiles they were as fast as four.
        few = config.tile.m * config.tile.k >= 128 * 64 or config.chunk == 8
        for stages in (3, 4, 2) if few else (4, 3, 2):
            yield replace(config, stages=stages)


def _chunk(w: ConvWorkload) -> int:
    """Fragments of a step: four, or two where that pads less."""
    reduction = Reduction.of(w)
    return 4 if reduction.outer * ceil_div(reduction.inner, 16) % 4 in (0, 3) else 2


def estimate_us(w: ConvWorkload, config: MmaSyncConfig, card: Card) -> float:
    """Returns roughly the microseconds of a kernel beside its launch: whichever is longer, all the
    steps of the busiest multiprocessor at the tile's rate, or those of one block alone.

    It ranks tiles and splits of one workload, and is not meant to be compared with anything else:
    each multiprocessor is taken for one of an H200, whatever the card.
    """
    shape = (config.warps_m, config.warps_k, config.fragments_m, config.fragments_k)
    rate = next(rate for known, rate in GPU_TILES.items() if known[:4] == shape)
    tile, blocks = config.tile, gemm_of(w, config).blocks * config.split
    megaflops = 2e-6 * tile.m * tile.k * tile.i
    count = ceil_div(steps(w, config), config.split)
    each = rate / H200.multiprocessors
    busiest = ceil_div(blocks, card.multiprocessors) * count * megaflops / each
    alone = count * (STEP_US * config.chunk / 4 + megaflops / ALONE_TFLOPS)
    cluster = CLUSTER_US + RANK_US * config.split if config.split > 1 else 0.0
    return max(busiest, alone) + cluster


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[MmaSyncConfig]:
    """Every configuration worth trying that passes `check`, the best guess first: sums are split
    among blocks only where these are few."""
    most = hardware.card.scaled(MOST_BLOCKS)
    first = next(guesses(w, hardware), None)
    if first is not None:
        yield first
    for (warps_m, warps_k, m, k, warps_i), chunk, stages, split, swizzle in itertools.product(
        GPU_TILES, (2, 4, 8), (2, 3, 4, 6), (1, 2, 4, 8), (1, 8)
    ):
        config = MmaSyncConfig(warps_m, warps_k, m, k, chunk, stages, warps_i, split, swizzle)
        blocks = gemm_of(w, config).blocks
        if split > 1 and (blocks * split > most or swizzle > 1):
            continue
        if config != first and fits(w, config, hardware):
            yield config
