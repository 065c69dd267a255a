"""The epilogue with the max pool that follows: 3x3 windows at stride 2.

A warp has 16 pixels side by side of each row, and a thread the same two of every row. A window's
maximum is taken of the thread's own registers first, then of those of threads beside it:

    rows      the last row of a tile is kept for the next tile, since windows overlap
    columns   window j of a warp is its columns 2j and 2j + 1, exchanged between two threads, and
              one more: of the pair before (padded at the left) or after (not padded)
    warps     leave that one column in shared memory for the warp beside them

What a thread of row r has, gets of the thread of the row beside (r + 1, r - 1), and pools:

    r                 0       1       2       3       4       5       6       7
    has columns     0  8    1  9    2 10    3 11    4 12    5 13    6 14    7 15
    gets            1       8       3      10       5      12       7      14
    pools           0, 1    8, 9    2, 3   10, 11   4, 5   12, 13   6, 7   14, 15
    number of pair  0       4       1       5       2       6       3       7
"""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from schedules.families.few_channels.block import Block
from schedules.families.few_channels.epilogue import Store
from schedules.families.few_channels.plan import ADJACENT, POOL_STEP, ROWS, PooledPlan
from schedules.threads import packed_integers, ptx
from schedules.threads.control import either, grid, unrolled, vectorized, when
from schedules.threads.registers import Registers

#: Pairs of columns of a warp, each of which one thread pools.
WINDOWS = ROWS // POOL_STEP
#: Elements of a packed pair, and the pairs of the channels that a thread has of a group.
PAIR = 2
CHANNELS = ADJACENT // PAIR


class PooledStore(Store):
    """Finishes, pools and stores the tiles of a block.

    Registers are packed pairs, (windows, groups, 4) each: four for the eight channels that a thread
    has of a group.
    """

    def __init__(self, block: Block, accumulators: Registers) -> None:
        super().__init__(block, accumulators)
        plan = block.plan
        assert isinstance(plan, PooledPlan)
        self.pooled = plan
        self.edges = block.shared.array("edges", "uint32")
        rows, windows = (plan.part_groups, 2, CHANNELS), (plan.windows, plan.part_groups, CHANNELS)
        #: The last row of the tile above.
        self.kept = Registers.array("kept", rows, "uint32")
        #: The largest of three rows.
        self.rows = Registers.array("rows", (plan.windows, *rows), "uint32")
        #: A column for another thread, and what came of another thread.
        self.sent = Registers.array("sent", windows, "uint32")
        self.came = Registers.array("came", windows, "uint32")
        #: The column that the pair beside needs.
        self.edge = Registers.array("edge", windows, "uint32")
        #: The largest of the window so far.
        self.best = Registers.array("best", windows, "uint32")
        #: Four pairs of eight results.
        self.pairs = self.packed
        if self.integer:
            self.pairs = Registers.array("pairs", (CHANNELS,), "uint32")
        self.least = T.uint32(packed_integers.LEAST if self.integer else _least(plan.held.name))
        with grid(*rows) as index:
            self.kept[index] = self.least

    def begin(self) -> None:
        """Loads nothing: while products are added up there is no room for bias and slopes."""

    def wait(self, turn: Expr) -> None:
        """Waits for the first patch; for the others `store` does, between warps side by side."""
        with when(turn == 0):
            self.block.pipeline.wait()

    def store(self, tile: Expr, turn: Expr) -> None:
        """Pools and stores the tile of a turn."""
        self.load_channels()
        self._pool_rows(tile)
        self._pool_pairs(turn)
        self.block.pipeline.wait()
        self._pool_edges(turn)
        self._store(tile, turn)

    # ---------------------------------------------------------------- down

    def _pool_rows(self, tile: Expr) -> None:
        """Takes the largest of three rows: the one kept, then two more, the last of which is
        kept."""
        plan, block = self.pooled, self.block
        _, p, q = block.at(tile)
        first = tile % plan.tiles[1] == 0
        with grid(plan.part_groups, 2) as (group, eight):
            column = q + block.across * ROWS + block.row + 8 * eight
            with when(first), unrolled(CHANNELS) as i:
                self.kept[group, eight, i] = self.least
            with unrolled(plan.windows) as window:
                for row in range(POOL_STEP):
                    line = window * POOL_STEP + row
                    self.finish(line, eight, group)
                    self._split()
                    inside = self._inside(p + line, column)
                    with unrolled(CHANNELS) as i:
                        pair = T.Select(inside, self.pairs[i], self.least)
                        at = (window, group, eight, i)
                        if row == 0:
                            self.rows[at] = self.kept[group, eight, i]
                        else:
                            self.kept[group, eight, i] = pair
                        self.keep_larger(self.rows[at], pair)

    def _split(self) -> None:
        """Results of 8 bits to pairs that can be compared."""
        if self.integer:
            for word in range(2):
                pairs = packed_integers.split(self.packed[word], self.w.precision.result)
                for i, pair in enumerate(pairs):
                    self.pairs[word * packed_integers.PAIRS + i] = pair

    def _inside(self, line: Expr, column: Expr) -> Expr:
        """True where the convolution has such a pixel; tested only where it may have none."""
        plan, w = self.pooled, self.w
        conditions = []
        if (plan.tiles[1] - plan.idle) * plan.config.rows + plan.idle > w.p:
            conditions.append(line < w.p)
        if plan.skipped:
            conditions.append(column >= 0)
        if plan.tiles[2] * plan.columns * POOL_STEP > w.q or plan.tiles[2] > 1:
            conditions.append(column < w.q)
        return tirx.all(*conditions, tirx.const(True))

    # ---------------------------------------------------------------- across

    @property
    def _pair(self) -> Expr:
        """Number of the pair of the warp's columns that the thread pools."""
        row = self.block.row
        return row // 2 + row % 2 * (WINDOWS // 2)

    @property
    def _beside(self) -> int:
        """The pair of which a window takes its third column: -1 for the one before, 1 for the one
        after."""
        return -1 if self.pooled.pool.padding[1] else 1

    def _pool_pairs(self, turn: Expr) -> None:
        """Takes the largest of a pair's columns. Leaves the warp's outermost column for the warp
        beside."""
        plan, block = self.pooled, self.block
        windows = (plan.windows, plan.part_groups)
        with grid(*windows, CHANNELS) as (window, group, i):
            odd = block.row % 2 == 1
            low, high = (self.rows[window, group, eight, i] for eight in range(2))
            self.best[window, group, i] = T.Select(odd, high, low)
            self.sent[window, group, i] = T.Select(odd, low, high)
        with grid(*windows, CHANNELS) as at:
            ptx.shuffle(self.came[at], self.sent[at], block.thread.lane ^ 4)
            # A thread's own pixel is the right one of its pair in an odd row, else the left one.
            own = block.row % 2 == plan.pool.padding[1]
            self.edge[at] = T.Select(own, self.best[at], self.came[at])
            self.keep_larger(self.best[at], self.came[at])
        with grid(*windows) as (window, group):
            outermost = WINDOWS - 1 if self._beside < 0 else 0
            to = self._edge(turn, block.across, window, group)
            with when(self._pair == outermost):
                pairs = [self.edge[window, group, i] for i in range(CHANNELS)]
                # Stored by hand: TVM would put a barrier between this and reads of the patch.
                ptx.store_shared(self.edges.pointer(*to), pairs)

    def _edge(self, turn: Expr, across: Expr, window: Expr, group: Expr) -> tuple[Expr, ...]:
        """Index in `edges` of what a warp leaves of a window in a turn. across: number of the warp
        among those side by side."""
        channel = self.block.pack * CHANNELS
        return turn % 2, window, across, self.block.group(group), channel

    def _pool_edges(self, turn: Expr) -> None:
        """Takes the third column of each window: of the pair beside, which may be another
        warp's."""
        plan, block, beside = self.pooled, self.block, self._beside
        windows = (plan.windows, plan.part_groups)
        with grid(*windows, CHANNELS) as at:
            other = (self._pair + beside + WINDOWS) % WINDOWS
            row = other % (WINDOWS // 2) * 2 + other // (WINDOWS // 2)
            ptx.shuffle(self.came[at], self.edge[at], row * 4 + block.pack)
        with grid(*windows) as (window, group):
            across = block.across + beside
            exists = tirx.all(across >= 0, across < plan.config.across)
            outermost = 0 if beside < 0 else WINDOWS - 1
            with when(self._pair == outermost), either(exists) as (another, none):
                with another, vectorized(CHANNELS) as i:
                    *to, channel = self._edge(turn, across, window, group)
                    self.came[window, group, i] = self.edges[(*to, channel + i)]
                with none, vectorized(CHANNELS) as i:
                    self.came[window, group, i] = self.least
            with unrolled(CHANNELS) as i:
                best = self.best[window, group, i]
                self.keep_larger(best, self.came[window, group, i])
                if self.relu:
                    self.keep_larger(best, T.uint32(0))

    def _store(self, tile: Expr, turn: Expr) -> None:
        """Stores eight channels at a time. A block's first tile was only for its last row."""
        plan, block = self.pooled, self.block
        rows, columns = plan.pool.size
        n, _, q = block.at(tile)
        down = tile % plan.tiles[1] - plan.idle
        elements = self.best.view(plan.held.name)
        with grid(plan.windows, plan.part_groups) as (window, group):
            first = block.channel(group)
            pair = block.across * WINDOWS + self._pair
            line, column = down * plan.windows + window, q // POOL_STEP + pair
            inside = [turn > 0, line >= 0, line < rows, column < columns, first < self.w.k]
            if plan.overlap:
                inside += [pair >= plan.skipped, pair < plan.skipped + plan.columns]
            inside.append(tile < plan.total)
            with when(tirx.all(*inside)):
                if self.integer:
                    for word in range(2):
                        pairs = [self.best[window, group, word * 2 + i] for i in range(2)]
                        joined = packed_integers.join(pairs, self.w.precision.result)
                        self.packed[word] = joined
                    self._store_eight(self.results, (), [n, line, column], first)
                else:
                    self._store_eight(elements, (window, group), [n, line, column], first)

    def _store_eight(
        self, elements: Registers, at: tuple[Expr, ...], pixel: list[Expr], first: Expr
    ) -> None:
        """Stores eight channels of a pixel, from the first on, of elements with these indices."""
        with vectorized(8) as v:
            T.buffer_store(self.y, elements[(*at, v)], [*pixel, first + v])


def _least(dtype: str) -> int:
    """A packed pair that is less than any other: of two infinities below zero."""
    pair = np.full(PAIR, -np.inf, dtypes.get(dtype).numpy)
    return int(pair.view(np.uint32)[0])
