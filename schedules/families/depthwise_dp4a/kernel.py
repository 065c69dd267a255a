"""The depthwise kernel of dp4a. A thread goes down its tile, without shared memory:

load the taps of its channels, and what the epilogue has of each
for each row of the tile:
    load what it reads of the input that no row above did; the next row's first
    transpose                         a word of four channels to quads of four columns   `patch`
    sums of each pixel and channel    one instruction for up to four taps of a row
    epilogue, store                                                                   `epilogue`
"""

from __future__ import annotations

from contextlib import nullcontext

from tvm import tirx

from schedules.conv.workload import ConvWorkload
from schedules.families.depthwise_dp4a.config import DepthwiseDp4aConfig
from schedules.families.depthwise_dp4a.epilogue import Store
from schedules.families.depthwise_dp4a.patch import Patch
from schedules.families.depthwise_dp4a.plan import Plan
from schedules.families.depthwise_dp4a.tile import Tile
from schedules.threads.control import when
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Launch


def kernel(w: ConvWorkload, config: DepthwiseDp4aConfig) -> tirx.PrimFunc:
    """Returns the kernel, with the operands of `Plan.signature`."""
    plan = Plan(w, config)
    launch = Launch(plan.blocks, config.threads)
    with Kernel(plan.signature) as function, function.launch(launch) as thread:
        tile = Tile.of(plan, function, thread)
        uneven = plan.total % config.threads
        with when(tile.exists) if uneven else nullcontext():
            _compute(tile)
    return function.function


def _compute(tile: Tile) -> None:
    """Computes a tile from its first row to its last."""
    plan = tile.plan
    patch, store = Patch(tile), Store(tile)
    rows = range(plan.config.rows)
    read = [plan.read(row) for row in rows]
    loaded: set[int] = set()
    transposed: set[int] = set()

    def load(rows: list[int]) -> None:
        for row in rows:
            if row not in loaded:
                patch.load(row)
        loaded.update(rows)

    load(read[0])
    patch.load_taps()
    store.begin()
    for row in rows:
        if row + 1 in rows:
            load(read[row + 1])
        for one in read[row]:
            if one not in transposed:
                patch.transpose(one)
        transposed.update(read[row])
        for column in range(plan.config.columns):
            store.store(patch, row, column)
