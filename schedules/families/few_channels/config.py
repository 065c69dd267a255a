"""The knobs of `few_channels`: which there are, which fit, which are worth trying."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.errors import require_none
from schedules.families.few_channels.geometry import (
    GROUP,
    POOL_STEP,
    ROWS,
    PooledGeometry,
    geometry,
)
from schedules.machine.hardware import Hardware

#: Where a filter can be kept.
WEIGHTS = ("shared", "registers")
#: Steps along the reduction up to which the arithmetic is no matter.
FEW_STEPS = 4


@dataclass(frozen=True)
class FewChannelsConfig:
    """A block has ``tall * across * parts`` warps; the tile it computes, ``tall * down`` rows."""

    #: Output rows that a warp computes at a time, 16 pixels of each.
    down: int
    #: Warps side by side, 16 pixels each.
    across: int
    #: Warps that share the output channels.
    parts: int = 1
    #: Warps above each other.
    tall: int = 1
    #: Where the filter is kept: ``"shared"`` memory, or ``"registers"``.
    weights: str = "shared"
    #: Blocks of the grid, each of which computes every so-manieth tile; 0 is a block a tile.
    blocks: int = 0
    #: Blocks that are to fit on an SM at a time, a bound on their registers; 0 for none.
    resident: int = 0

    def __str__(self) -> str:
        text = f"{self.down} rows, {self.tall}x{self.across}x{self.parts} warps"
        text += ", filter in registers" * (self.weights == "registers")
        text += f", {self.blocks} blocks" * bool(self.blocks)
        return text + f", {self.resident} an SM" * bool(self.resident)

    @property
    def threads(self) -> int:
        return 32 * self.across * self.parts * self.tall

    @property
    def rows(self) -> int:
        """Output rows of a tile."""
        return self.down * self.tall


def problems(w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware) -> list[str]:
    """Why `config` does not fit; empty where it does."""
    knobs = (config.down, config.across, config.parts, config.tall)
    if min(knobs) < 1 or min(config.blocks, config.resident) < 0:
        return [f"every knob is at least 1, blocks and resident at least 0: {config}"]
    g = geometry(w, config)
    found = _pool_problems(g) if isinstance(g, PooledGeometry) else []
    if found:
        return found
    if config.weights not in WEIGHTS:
        found.append(f"the filter is in one of {WEIGHTS}, not in {config.weights!r}")
    if g.groups % config.parts:
        found.append(f"{g.groups} groups of {GROUP} channels are no multiple of {config.parts}")
    found += hardware.exceeded(
        config.threads,
        shared_bytes=g.shared_bytes,
        registers=g.registers,
        resident=max(config.resident, 1),
    )
    return found


def _pool_problems(g: PooledGeometry) -> list[str]:
    """Of tiles that can't be pooled."""
    found = []
    if g.config.tall != 1 or g.config.down % POOL_STEP:
        found.append(f"a pool takes {POOL_STEP} rows, or a multiple, of one warp above each other")
    return found


def check(w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every reason why `config` does not fit."""
    require_none(problems(w, config, hardware), config, w, hardware.name)


def persistent(hardware: Hardware) -> int:
    """Blocks of a grid whose blocks compute several tiles: two for each multiprocessor."""
    return 2 * hardware.card.multiprocessors


def widest(w: ConvWorkload, most: int) -> int:
    """Warps side by side, at most so many, that leave the fewest columns idle."""
    columns = ceil_div(w.q, ROWS)
    return ceil_div(columns, ceil_div(columns, most))


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[FewChannelsConfig]:
    """Every configuration worth trying, each of which fits."""
    blocks = persistent(hardware)
    for down, across, parts, tall, weights, (grid, resident) in itertools.product(
        (2, 1, 4, 8),
        sorted({widest(w, most) for most in (8, 4, 2, 1)}, reverse=True),
        (1, 2, 3),
        (1, 2, 4),
        WEIGHTS,
        ((0, 0), (blocks, 2), (blocks // 2, 1)),
    ):
        config = FewChannelsConfig(down, across, parts, tall, weights, grid, resident)
        if not problems(w, config, hardware):
            yield config


def default(w: ConvWorkload, hardware: Hardware) -> FewChannelsConfig | None:
    """The configuration that is used untuned; None where none fits.

    On an H200 fastest were tiles of 16 columns and 16 rows, a warp on each scheduler, in blocks
    that fetch the next tile meanwhile, more of them where there is little to add up; where tiles
    are few they are small, and warps share the filter's columns, which they keep.
    """
    across, blocks = widest(w, 8), persistent(hardware)
    small = FewChannelsConfig(1, across)
    g = geometry(w, small)
    if w.epilogue.pool is not None:
        wanted = _pooled_defaults(w, across, blocks)
    elif math.prod(g.tiles) <= 2 * blocks:
        halves = FewChannelsConfig(2, widest(w, 2), 2, 1, "registers", blocks // 2, 1)
        wanted = [*[halves] * (g.groups == 2 and g.steps > FEW_STEPS), small]
    elif g.steps <= FEW_STEPS and g.groups == 1:
        wanted = [FewChannelsConfig(4, 1, tall=4, blocks=2 * blocks), small]
    else:
        tall = FewChannelsConfig(4, 1, tall=4, blocks=blocks, resident=2)
        wanted = [tall, FewChannelsConfig(2, across, blocks=blocks, resident=2), small]
    fitting = (config for config in wanted if not problems(w, config, hardware))
    return next(fitting, None) or next(space(w, hardware), None)


def _pooled_defaults(w: ConvWorkload, across: int, blocks: int) -> list[FewChannelsConfig]:
    """The fewer blocks, the fewer tiles are computed only for their last row."""
    tall = FewChannelsConfig(2 * POOL_STEP, across, blocks=blocks, resident=2)
    low = replace(tall, down=POOL_STEP)
    g = geometry(w, tall)
    many = g.groups == 1 and math.prod(g.tiles) > 2 * blocks
    alone = replace(low, blocks=blocks // 2, resident=1)
    return [*[tall] * many, low, alone]
