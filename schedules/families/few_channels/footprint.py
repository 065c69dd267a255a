"""The footprint of the kernel of few channels: what it takes of a GPU."""

from __future__ import annotations

from dataclasses import replace

from intrinsics import dtypes
from schedules.conv.signature import WEIGHT
from schedules.conv.workload import ConvWorkload
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.families.few_channels.plan import COLUMNS, PACKS, ROWS, Plan, PooledPlan
from schedules.machine.cost import moved_bytes
from schedules.machine.footprint import MMA, Footprint

#: Bytes that a warp reads for a fragment of pixels, and for those of the filter of 32 channels.
PIXELS_BYTES, FILTER_BYTES = 512, 1024
#: Warp instructions: for a fragment of pixels, which four loads gather; for those of 32 channels
#: of the filter; for 32 copies into the patch; for 32 vectors of the output, and more of them where
#: these are rounded to integers.
FRAGMENT, FILTER, COPY, STORE, ROUND = 6, 3, 14, 40, 16
#: More of these where sums of integers are converted.
CONVERT = 8
#: To pool two rows of 16 pixels and 32 channels: warp instructions, and bytes that are exchanged.
POOL, POOL_BYTES = 100, 8 * 128


def footprint(w: ConvWorkload, config: FewChannelsConfig) -> Footprint:
    """Returns instructions, traffic and occupancy of a configuration."""
    plan = Plan.of(w, config)
    return _pooled(plan, _tile(plan)) if isinstance(plan, PooledPlan) else _tile(plan)


def _tile(plan: Plan) -> Footprint:
    """The footprint as if each tile had a block of its own; those that share one take turns."""
    w, config = plan.w, plan.config
    columns = config.across * ROWS
    outputs = config.rows * min(columns, w.q) * w.k
    products = config.down * plan.part_groups * 4
    kept = config.weights == "registers"
    filters = 0 if kept else plan.part_groups
    issued = config.down * FRAGMENT + filters * FILTER + products
    copies = plan.patch_rows * plan.vectors * plan.copies
    patch = plan.memory["patches"].stride(1)
    loaded = config.down * PIXELS_BYTES + filters * FILTER_BYTES
    store = STORE + (ROUND if dtypes.get(w.precision.result).integer else 0)
    store += CONVERT if plan.operand.integer else 0
    instructions = config.warps * plan.steps * issued + (COPY * copies + store * outputs // 8) // 32
    return Footprint(
        blocks=plan.total,
        threads=config.threads,
        registers=plan.registers,
        shared_bytes=plan.memory.bytes,
        unit=MMA,
        operand=w.precision.operands[0],
        macs=config.warps * plan.steps * products * ROWS * COLUMNS * PACKS * plan.each,
        instructions=instructions,
        shared_traffic=config.warps * plan.steps * loaded + 2 * patch,
        read_bytes=patch // plan.copies + plan.signature[WEIGHT].bytes // plan.rounds,
        written_bytes=outputs * dtypes.get(w.precision.result).bytes,
        dram_bytes=moved_bytes(w),
        steps=1,
        rounds=plan.steps,
        ahead=1 if plan.rounds > 1 else 0,
    )


def _pooled(plan: PooledPlan, tile: Footprint) -> Footprint:
    """The footprint of blocks that compute tiles one after another, which few blocks do as well as
    many."""
    pools = plan.config.warps * plan.part_groups * plan.windows
    pooled = plan.share * plan.windows * plan.columns * plan.w.k
    return replace(
        tile,
        blocks=plan.blocks,
        macs=plan.rounds * tile.macs,
        instructions=plan.rounds * (tile.instructions + pools * POOL),
        shared_traffic=plan.rounds * (tile.shared_traffic + pools * POOL_BYTES),
        read_bytes=plan.rounds * tile.read_bytes,
        written_bytes=pooled * dtypes.get(plan.w.precision.result).bytes,
        steps=plan.rounds,
    )
