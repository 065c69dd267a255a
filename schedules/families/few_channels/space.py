"""Which configurations of the kernel of few channels fit, and which are worth trying."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.errors import require_none
from schedules.families.few_channels.config import WEIGHTS, FewChannelsConfig
from schedules.families.few_channels.plan import GROUP, POOL_STEP, ROWS, Plan, PooledPlan
from schedules.machine.hardware import Hardware

#: Steps of the reduction up to which the arithmetic takes no time beside the copies.
FEW_STEPS = 4
#: Worth trying: blocks that a multiprocessor holds, persistent.
RESIDENT = (2, 1)


def problems(w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware) -> list[str]:
    """Returns why `config` does not fit; nothing where it does."""
    knobs = (config.down, config.across, config.parts, config.tall)
    if min(knobs) < 1 or min(config.blocks, config.resident) < 0:
        return [f"every knob is at least 1, blocks and resident at least 0: {config}"]
    plan = Plan.of(w, config)
    if isinstance(plan, PooledPlan) and (config.tall != 1 or config.down % POOL_STEP):
        return [f"a pool takes {POOL_STEP} rows, or a multiple, of one warp above each other"]
    found = []
    if config.weights not in WEIGHTS:
        found.append(f"the filter is in one of {WEIGHTS}, not in {config.weights!r}")
    if plan.groups % config.parts:
        groups = f"{plan.groups} groups of {GROUP} channels"
        found.append(f"{groups} are no multiple of {config.parts}")
    found += hardware.exceeded(
        config.threads,
        shared_bytes=plan.memory.bytes,
        registers=plan.registers,
        resident=max(config.resident, 1),
    )
    return found


def check(w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every reason why `config` does not fit."""
    require_none(problems(w, config, hardware), config, w, hardware.name)


def persistent(hardware: Hardware) -> int:
    """Returns the blocks of a grid of persistent blocks: two for each multiprocessor."""
    return 2 * hardware.card.multiprocessors


def widest(w: ConvWorkload, most: int) -> int:
    """Returns the warps side by side, at most so many, that leave the fewest columns idle."""
    columns = ceil_div(w.q, ROWS)
    return ceil_div(columns, ceil_div(columns, most))


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[FewChannelsConfig]:
    """Yields every configuration worth trying, each of which fits."""
    shares = [(hardware.card.multiprocessors * blocks, blocks) for blocks in RESIDENT]
    for down, across, parts, tall, weights, (grid, resident) in itertools.product(
        (2, 1, 4, 8),
        sorted({widest(w, most) for most in (8, 4, 2, 1)}, reverse=True),
        (1, 2, 3),
        (1, 2, 4),
        WEIGHTS,
        ((0, 0), *shares),
    ):
        config = FewChannelsConfig(down, across, parts, tall, weights, grid, resident)
        if not problems(w, config, hardware):
            yield config


def default(w: ConvWorkload, hardware: Hardware) -> FewChannelsConfig | None:
    """Returns the configuration that is used untuned; None where none fits.

    Fastest on an H200 were tiles of 16 columns and 16 rows, a warp for each scheduler, in
    persistent blocks, more of them where the reduction is short. Where tiles are few they are
    small, and warps share the output channels, whose filter they keep in registers.
    """
    across, blocks = widest(w, 8), persistent(hardware)
    small = FewChannelsConfig(1, across)
    plan = Plan.of(w, small)
    if w.epilogue.pool is not None:
        wanted = _pooled_defaults(w, across, blocks)
    elif math.prod(plan.tiles) <= 2 * blocks:
        shared = FewChannelsConfig(2, widest(w, 2), 2, 1, "registers", blocks // 2, 1)
        wanted = [*[shared] * (plan.groups == 2 and plan.steps > FEW_STEPS), small]
    elif plan.steps <= FEW_STEPS and plan.groups == 1:
        wanted = [FewChannelsConfig(4, 1, tall=4, blocks=2 * blocks), small]
    else:
        tall = FewChannelsConfig(4, 1, tall=4, blocks=blocks, resident=2)
        wanted = [tall, FewChannelsConfig(2, across, blocks=blocks, resident=2), small]
    fitting = (config for config in wanted if not problems(w, config, hardware))
    return next(fitting, None) or next(space(w, hardware), None)


def _pooled_defaults(w: ConvWorkload, across: int, blocks: int) -> list[FewChannelsConfig]:
    """Defaults with a pool: the fewer blocks, the fewer tiles are computed for their last row
    alone. Results of 8 bits take more registers, so fewer warps have more rows each."""
    tall = FewChannelsConfig(2 * POOL_STEP, across, blocks=blocks, resident=2)
    low = replace(tall, down=POOL_STEP)
    plan = Plan.of(w, tall)
    many = plan.groups == 1 and math.prod(plan.tiles) > 2 * blocks
    alone = replace(low, blocks=blocks // 2, resident=1)
    if dtypes.get(w.precision.result).integer:
        return [replace(tall, across=widest(w, 4)), low, alone]
    return [*[tall] * many, low, alone]
