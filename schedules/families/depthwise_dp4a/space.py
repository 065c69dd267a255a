"""Which configurations of the depthwise kernel of dp4a fit, and which are worth trying."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.errors import require_none
from schedules.families.depthwise_dp4a.config import DepthwiseDp4aConfig
from schedules.families.depthwise_dp4a.plan import QUAD, Plan
from schedules.machine.hardware import Hardware

#: Rows and columns of a tile at most, and words.
ROWS, COLUMNS, WORDS = (8, 4, 2, 1), (8, 4, 2, 1), (1, 2)
#: Threads of a block.
THREADS = (128, 64, 256)
#: Outputs of a thread from which on its code is too long.
LONGEST = 256


def adjacent(w: ConvWorkload) -> int:
    """Returns a number that divides the first of a thread's channels, in the input and output."""
    return math.gcd(w.c, w.window.adjacent if w.window else 0)


def problems(w: ConvWorkload, config: DepthwiseDp4aConfig, hardware: Hardware) -> list[str]:
    """Returns why `config` does not fit; nothing where it does."""
    if min(config.rows, config.columns, config.words, config.threads) < 1:
        return [f"every knob is at least 1: {config}"]
    found = []
    if config.words not in (1, 2, 4):
        found.append(f"a vector has 1, 2 or 4 words, not {config.words}")
    elif adjacent(w) % (QUAD * config.words):
        found.append(f"{QUAD * config.words} channels are not contiguous in memory")
    if config.rows * config.columns * QUAD * config.words > LONGEST:
        found.append(f"more than {LONGEST} outputs of a thread: its code is too long")
    found += hardware.exceeded(config.threads, registers=Plan(w, config).registers)
    return found


def check(w: ConvWorkload, config: DepthwiseDp4aConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every reason why `config` does not fit."""
    require_none(problems(w, config, hardware), config, w, hardware.name)


def even(extent: int, most: int) -> int:
    """Returns the size of tiles when there are as few as `most` allows, all of about equal size."""
    return ceil_div(extent, ceil_div(extent, most))


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[DepthwiseDp4aConfig]:
    """Yields every configuration worth trying, each of which fits."""
    seen = set()
    for rows, columns, words, threads in itertools.product(ROWS, COLUMNS, WORDS, THREADS):
        config = DepthwiseDp4aConfig(even(w.p, rows), even(w.q, columns), words, threads)
        if config not in seen and not problems(w, config, hardware):
            seen.add(config)
            yield config


def default(w: ConvWorkload, hardware: Hardware) -> DepthwiseDp4aConfig | None:
    """Returns the first of the space; None where none fits."""
    return next(space(w, hardware), None)
