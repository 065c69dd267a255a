"""What the kernel of few channels asks of a GPU."""

from __future__ import annotations

import math
from dataclasses import replace

from schedules.conv.workload import ConvWorkload
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.families.few_channels.geometry import PAIRS, ROWS, Geometry, PooledGeometry, geometry
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import MMA, Footprint

#: Bytes that a warp reads for a fragment of pixels, and for those of the filter of 32 channels.
PIXELS_BYTES, FILTER_BYTES = 512, 1024
#: Warp instructions: for a fragment of pixels, which four loads gather; for those of 32 channels
#: of the filter; of 32 copies into the patch; of 32 vectors of the output.
FRAGMENT, FILTER, COPY, STORE = 6, 3, 14, 40
#: To pool two rows of 16 pixels and 32 channels: warp instructions, and bytes that are exchanged.
POOL, POOL_BYTES = 100, 8 * 128


def footprint(w: ConvWorkload, config: FewChannelsConfig) -> Footprint:
    g = geometry(w, config)
    return _pooled(g, _tile(g)) if isinstance(g, PooledGeometry) else _tile(g)


def _tile(g: Geometry) -> Footprint:
    """Of blocks that compute a tile each: those of one that computes several take turns."""
    w, config = g.w, g.config
    warps = config.threads // 32
    columns = config.across * ROWS
    outputs = config.rows * min(columns, w.q) * w.k
    products = config.down * g.part_groups * 4
    kept = config.weights == "registers"
    filters = 0 if kept else g.part_groups
    issued = config.down * FRAGMENT + filters * FILTER + products
    copies = g.patch_rows * g.vectors * g.copies
    patch = g.copies * g.patch_words * 4
    loaded = config.down * PIXELS_BYTES + filters * FILTER_BYTES
    return Footprint(
        blocks=math.prod(g.tiles),
        threads=config.threads,
        registers=g.registers,
        shared_bytes=g.shared_bytes,
        unit=MMA,
        operand=w.precision.operands[0],
        macs=warps * g.steps * products * ROWS * 8 * PAIRS * 2,
        instructions=warps * g.steps * issued + (COPY * copies + STORE * outputs // 8) // 32,
        shared_traffic=warps * g.steps * loaded + 2 * patch,
        read_bytes=patch // g.copies + 4 * g.weight_words // g.rounds,
        written_bytes=outputs * 2,
        dram_bytes=moved_bytes(w),
        steps=1,
        rounds=g.steps,
        ahead=1 if g.rounds > 1 else 0,
    )


def _pooled(g: PooledGeometry, tile: Footprint) -> Footprint:
    """Of blocks that compute tiles one after another, which few blocks do as well as many."""
    pools = g.config.threads // 32 * g.part_groups * g.windows
    return replace(
        tile,
        blocks=g.blocks,
        macs=g.rounds * tile.macs,
        instructions=g.rounds * (tile.instructions + pools * POOL),
        shared_traffic=g.rounds * (tile.shared_traffic + pools * POOL_BYTES),
        read_bytes=g.rounds * tile.read_bytes,
        written_bytes=g.share * g.windows * g.columns * g.w.k * 2,
        steps=g.rounds,
    )
