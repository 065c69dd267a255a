"""What the kernel of few channels asks of a GPU."""

from __future__ import annotations

from schedules.cost import moved_bytes
from schedules.few_channels_config import FewChannelsConfig
from schedules.few_channels_geometry import PAIRS, ROWS, geometry
from schedules.footprint import MMA, Footprint
from schedules.workload import ConvWorkload

#: Bytes that a warp reads for a fragment of pixels, and for those of the filter of 32 channels.
PIXELS_BYTES, FILTER_BYTES = 512, 1024
#: Warp instructions: for a fragment of pixels, which four loads gather; for those of 32 channels
#: of the filter; of 32 copies into the patch; of 32 vectors of the output; to pool two rows of 16
#: pixels and 32 channels, of which there are two for each shuffle of 128 bytes.
FRAGMENT, FILTER, COPY, STORE, POOL = 6, 3, 14, 40, 100
SHUFFLES = 8


def footprint(w: ConvWorkload, config: FewChannelsConfig) -> Footprint:
    g = geometry(w, config)
    warps = config.threads // 32
    columns = config.across * ROWS
    outputs = config.rows * min(columns, w.q) * w.k
    pooled = w.epilogue.pool
    pools = 0 if pooled is None else warps * g.part_groups * config.rows // 2
    written = outputs if pooled is None else config.rows // 2 * pooled.size[1] * w.k
    products = config.down * g.part_groups * 4
    kept = config.weights == "registers"
    filters = 0 if kept else g.part_groups
    issued = config.down * FRAGMENT + filters * FILTER + products
    copies = g.patch_rows * g.vectors * g.copies
    patch = g.copies * g.patch_words * 4
    loaded = config.down * PIXELS_BYTES + filters * FILTER_BYTES
    return Footprint(
        blocks=g.computed,
        threads=config.threads,
        registers=g.registers,
        shared_bytes=g.shared_bytes,
        unit=MMA,
        macs=warps * g.steps * products * ROWS * 8 * PAIRS * 2,
        instructions=warps * g.steps * issued
        + (COPY * copies + STORE * outputs // 8) // 32
        + POOL * pools,
        shared_traffic=warps * g.steps * loaded + 2 * patch + SHUFFLES * 128 * pools,
        read_bytes=patch // g.copies + 4 * g.weight_words // g.rounds,
        written_bytes=written * 2,
        dram_bytes=moved_bytes(w),
        steps=1,
        rounds=g.steps,
        ahead=1 if g.rounds > 1 else 0,
    )
