"""Which configurations of the WGMMA kernel fit, and which are worth trying."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from intrinsics import wgmma
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.errors import ConfigError, passes, require_none
from schedules.families.wgmma.config import OTHER_REGISTERS, WgmmaConfig
from schedules.families.wgmma.plan import Plan
from schedules.machine.hardware import Hardware

#: What ptxas wants beside one instruction's accumulators (its error C7602), of the share that a
#: thread starts with, whatever it asks for later.
REGISTERS_OF_ONE = 26
#: Worth trying, the first one where the model sees no difference: rows of a tile as (warpgroups,
#: fragments of 64 rows each), stages, blocks of a cluster, blocks of a multiprocessor.
ROWS = ((1, 1), (2, 1), (3, 1), (1, 2), (2, 2))
STAGES = (4, 6, 8, 3)
SPLITS = (1, 2, 4, 8)
RESIDENT = (1, 2, 3)
#: Buffers worth trying where there is a residual, of blocks that share a multiprocessor and others.
SHARING, ALONE = (3, 2), (4, 2)


def check(w: ConvWorkload, config: WgmmaConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every rule of workload or hardware that `config` breaks."""
    knobs = (config.warpgroups, config.fragments, config.stages, config.split, config.resident)
    if min(*knobs, config.columns) < 1 or config.buffers < 2:
        raise ConfigError(f"{config}: every knob is at least 1, and buffers 2")
    plan, problems = Plan(w, config), []
    if config.columns % 16 or config.columns > wgmma.MAX_N:
        problems.append(f"{config.columns} columns, the instruction has 16, 32, ... {wgmma.MAX_N}")
    if config.rows > 256:
        problems.append(f"{config.rows} rows, the copy engine moves 256 at most")
    if config.split not in (1, 2, 4, 8):
        problems.append(f"a cluster has 1, 2, 4 or 8 blocks, not {config.split}")
    if config.split > plan.steps:
        problems.append(f"{plan.steps} steps can't be split among {config.split}")
    if plan.clustered and config.rows * config.columns // 8 % config.split:
        problems.append("the blocks of a cluster do not share the tile evenly")
    problems += hardware.exceeded(
        config.threads,
        shared_bytes=plan.memory.bytes,
        resident=config.resident,
        cluster=config.split,
    )
    if config.columns // 2 + REGISTERS_OF_ONE > config.share:
        problems.append(f"one instruction of {config.columns} columns takes more than a share")
    held = config.accumulators + plan.gate_registers
    if held + OTHER_REGISTERS > config.registers:
        gate = f" and {plan.gate_registers} registers for the gate" * w.gate
        problems.append(
            f"{config.accumulators} accumulators{gate} a thread, "
            f"which has {config.registers} registers"
        )
    require_none(problems, config, w, hardware.name)


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[WgmmaConfig]:
    """Every configuration worth trying that passes `check`. The reduction is split where there are
    at most two blocks for each multiprocessor then."""
    most = 2 * hardware.card.multiprocessors
    for (groups, fragments), columns, stages, split, resident in itertools.product(
        ROWS, columns_worth(w.k), STAGES, SPLITS, RESIDENT
    ):
        config = WgmmaConfig(groups, fragments, columns, stages, split, resident)
        plan = Plan(w, config)
        if split > 1 and (resident > 1 or plan.tiles * split > most):
            continue
        loads = w.epilogue.residual and not plan.clustered
        for buffers in (SHARING if resident > 1 else ALONE) if loads else (2,):
            one = replace(config, buffers=buffers)
            if fits(w, one, hardware):
                yield one


def columns_worth(k: int) -> list[int]:
    """Tile widths that cut K into even parts, and powers of two; those that leave in pieces of 16
    columns only where one tile has all of K."""
    even = {round_up(ceil_div(k, parts), 16) for parts in range(1, ceil_div(k, 32) + 1)}
    whole = round_up(k, 16)
    wide = {c for c in even | {32, 64, 128, 256} if c % 32 == 0 or c == whole}
    candidates = {c for c in wide if c <= min(wgmma.MAX_N, round_up(whole, 32))}
    return sorted(candidates, reverse=True)


def fits(w: ConvWorkload, config: WgmmaConfig, hardware: Hardware) -> bool:
    """True where `check` raises nothing."""
    return passes(check, w, config, hardware)
