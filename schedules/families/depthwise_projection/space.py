"""Which configurations fit, and which are worth trying."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.errors import require_none
from schedules.families.depthwise_projection.config import (
    ACROSS,
    COLUMNS,
    DepthwiseProjectionConfig,
)
from schedules.families.depthwise_projection.plan import Plan
from schedules.families.depthwise_projection.prologue import depth
from schedules.machine.hardware import Hardware

#: Rows of a warp, and warps above each other and side by side, that are worth trying.
TILES = (
    (8, 1, 1), (8, 1, 2), (8, 2, 2), (8, 1, 4), (4, 1, 1), (4, 2, 1), (4, 1, 2), (4, 2, 2),
    (4, 7, 1), (2, 1, 1), (2, 2, 1), (2, 1, 2), (2, 4, 1), (2, 7, 1), (2, 7, 2), (14, 1, 2),
    (14, 2, 1), (14, 2, 2),
)  # fmt: skip
#: Pixels of an image that one block can have, and warps of a block.
SMALL, MOST_WARPS = 1024, 16
#: Pixels of all images that are few.
FEW = 4096
#: Steps up to which all are worth copying at once.
MOST_STEPS = 12


def problems(w: ConvWorkload, config: DepthwiseProjectionConfig, hardware: Hardware) -> list[str]:
    """Returns why `config` does not fit; nothing where it does."""
    knobs = (config.down, config.across, config.deep, config.chunk, config.stages, config.parts)
    if min(knobs) < 1 or config.rows < 2 or config.rows % 2 or config.resident < 0:
        return [f"rows are even, every other knob is at least 1, resident at least 0: {config}"]
    if w.k // COLUMNS % config.parts:
        return [f"{w.k // COLUMNS} instructions of {COLUMNS} channels do not split in that many"]
    plan = Plan(w, config)
    found = []
    if config.chunk % config.deep:
        found.append(f"{config.chunk} steps of a chunk are no multiple of {config.deep} warps")
    if config.stages == 1 and plan.chunks > 1:
        found.append(f"{plan.chunks} chunks need a second stage")
    found += hardware.exceeded(
        config.threads,
        shared_bytes=plan.memory.bytes,
        registers=plan.registers,
        resident=max(config.resident, 1),
    )
    return found


def check(w: ConvWorkload, config: DepthwiseProjectionConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every reason why `config` does not fit."""
    require_none(problems(w, config, hardware), config, w, hardware.name)


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[DepthwiseProjectionConfig]:
    """Yields every configuration worth trying, each of which fits; none without a prologue."""
    columns, steps = ceil_div(w.q, ACROSS), ceil_div(w.c, depth(w))
    # All channels at once read memory in the longest runs.
    chunks = {min(chunk, steps) for chunk in (2, 3, 4)}
    # So few pixels that each block has a multiprocessor to itself, and all registers: asked for one
    # block, ptxas spills none to save others.
    few = _few_pixels(w)
    chunks |= {steps} if steps <= MOST_STEPS or few else set()
    deeps = range(1, MOST_WARPS + 1 if few else 5)
    shares = (1, 2, 4, 5, *((8, 10) if few else ()))
    parts = [part for part in shares if w.k // COLUMNS % part == 0]
    for (rows, down, across), deep, chunk, stages, part in itertools.product(
        TILES, deeps, sorted(chunks), (2, 1, 3), parts
    ):
        # Nothing wider or much taller than the image, and no fewer than two warps a block.
        if w.prologue is None or across > columns or rows * down > round_up(w.p, 2) + rows:
            continue
        warps = down * across * deep
        if not 2 <= warps <= MOST_WARPS or (stages == 1) != (chunk == steps):
            continue
        # Many deep where all is copied at once, of small tiles.
        if deep > 4 and (stages > 1 or rows * down * across > 4):
            continue
        # Blocks share channels where warps do so already, and the image is small.
        if part > 1 and (deep == 1 or w.p * w.q > SMALL):
            continue
        config = DepthwiseProjectionConfig(
            rows, down, across, deep, chunk, stages, part, resident=int(few)
        )
        useful = stages <= ceil_div(steps, chunk) and (stages < 3 or chunk <= 2)
        if useful and not problems(w, config, hardware):
            yield config


def _few_pixels(w: ConvWorkload) -> bool:
    """True for integers of so few pixels that what counts is how long one block takes."""
    return dtypes.get(w.precision.x).integer and w.n * w.p * w.q <= FEW
