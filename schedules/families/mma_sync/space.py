"""Which configurations of the mma.sync kernel fit, which to start from, which are worth trying."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from schedules.conv.gemm import stored_columns
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.errors import ConfigError, passes, require_none
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.families.mma_sync.plan import Plan
from schedules.machine.gpus import H200, Card
from schedules.machine.hardware import Hardware

#: Registers of a thread beside its fragments, in compiled kernels: addresses and counters.
OTHER_REGISTERS = 40


def check(w: ConvWorkload, config: MmaSyncConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every rule of workload or hardware that `config` breaks."""
    sizes = (config.warps_m, config.warps_k, config.fragments_m, config.fragments_k)
    if min(*sizes, config.chunk, config.warps_i, config.split, config.swizzle) < 1:
        raise ConfigError(f"{config}: every knob is at least 1")
    plan = Plan(w, config)
    problems = list(_shape_problems(plan))
    problems += hardware.exceeded(
        config.threads,
        shared_bytes=plan.memory.bytes,
        registers=config.fragment_registers + OTHER_REGISTERS,
        cluster=config.split,
    )
    require_none(problems, config, w, hardware.name)


def _shape_problems(plan: Plan) -> Iterator[str]:
    config, tile = plan.config, plan.tile
    blocks_m = plan.gemm.m_pad // tile.m
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
    if config.split > plan.steps:
        yield f"{plan.steps} steps are not split among {config.split} blocks"
    for name, elements in (("gathered", tile.m * tile.i), ("weight", tile.k * tile.i)):
        if elements // plan.vector % config.threads:
            yield f"{config.threads} threads do not share the {name} tile evenly"


def fits(w: ConvWorkload, config: MmaSyncConfig, hardware: Hardware) -> bool:
    """True where `check` raises nothing."""
    return passes(check, w, config, hardware)


#: Tiles of a block as (warps_m, warps_k, fragments_m, fragments_k, warps_i), and the TFLOP/s that
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
#: On the same GPU, where no other block fills the gaps: microseconds that 64 of the reduction take
#: beside multiplications, and the TFLOP/s of these; microseconds that a cluster takes to start and
#: to add up, and that each of its blocks adds.
STEP_US, ALONE_TFLOPS, CLUSTER_US, RANK_US = 0.07, 3.0, 2.0, 0.15
#: The most blocks with a split reduction, on the same GPU: with more, clusters were seen to wait
#: for each other.
MOST_BLOCKS = 112


def guesses(w: ConvWorkload, hardware: Hardware) -> Iterator[MmaSyncConfig]:
    """Configurations to start from that pass `check`, the best guess first."""
    return (config for config in _ranked(w, hardware) if fits(w, config, hardware))


def _ranked(w: ConvWorkload, hardware: Hardware) -> Iterator[MmaSyncConfig]:
    """Guesses by `estimate_us`, each with several numbers of stages, the best first.

    Weights are stored in as many columns as the widest tile of `gemm.TILES_K` reads. Tiles that
    read more are left out, so that buckets share the weights.
    """
    plan, most = Plan(w, MmaSyncConfig()), hardware.card.scaled(MOST_BLOCKS)
    tried: list[tuple[float, MmaSyncConfig]] = []
    for warps_m, warps_k, m, k, warps_i in GPU_TILES:
        chunk = _chunk(plan, warps_i)
        if chunk == 4:
            config = MmaSyncConfig(warps_m, warps_k, m, k, max(4, 2 * warps_i), 4, warps_i)
        else:
            config = MmaSyncConfig(warps_m, warps_k, m, k, chunk, 4)
        gemm = Plan(w, config).gemm
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


def _chunk(plan: Plan, warps_i: int) -> int:
    """Fragments of a k-block: four, or two where that pads less. Of integers four as well where
    warps share the fragments, unless two are all: 3x3 taps of 64 channels have 18."""
    if plan.operand.integer and warps_i > 1 and plan.fragments > 2:
        return 4
    return 4 if plan.fragments % 4 in (0, 3) else 2


def estimate_us(w: ConvWorkload, config: MmaSyncConfig, card: Card) -> float:
    """Returns roughly the microseconds of a kernel without its launch: the longer of all steps of
    the busiest multiprocessor at the tile's rate, and the steps of one block alone.

    It ranks tiles and splits of one workload and compares with nothing else: each multiprocessor
    is taken for one of an H200, whatever the card, and a fragment of integers, of twice the
    products, for one of fp16.
    """
    shape = (config.warps_m, config.warps_k, config.fragments_m, config.fragments_k)
    rate = next(rate for known, rate in GPU_TILES.items() if known[:4] == shape)
    tile, blocks = config.tile, Plan(w, config).gemm.blocks * config.split
    megaflops = 2e-6 * tile.m * tile.k * tile.i
    count = ceil_div(Plan(w, config).steps, config.split)
    each = rate / H200.multiprocessors
    busiest = ceil_div(blocks, card.multiprocessors) * count * megaflops / each
    alone = count * (STEP_US * config.chunk / 4 + megaflops / ALONE_TFLOPS)
    cluster = CLUSTER_US + RANK_US * config.split if config.split > 1 else 0.0
    return max(busiest, alone) + cluster


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[MmaSyncConfig]:
    """Every configuration worth trying that passes `check`, the best guess first. The reduction is
    split among blocks only where these are few."""
    most = hardware.card.scaled(MOST_BLOCKS)
    first = next(guesses(w, hardware), None)
    if first is not None:
        yield first
    for (warps_m, warps_k, m, k, warps_i), chunk, stages, split, swizzle in itertools.product(
        GPU_TILES, (2, 4, 8), (2, 3, 4, 6), (1, 2, 4, 8), (1, 8)
    ):
        config = MmaSyncConfig(warps_m, warps_k, m, k, chunk, stages, warps_i, split, swizzle)
        blocks = Plan(w, config).gemm.blocks
        if split > 1 and (blocks * split > most or swizzle > 1):
            continue
        if config != first and fits(w, config, hardware):
            yield config
