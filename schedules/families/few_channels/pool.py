"""The kernel of `few_channels` with the max pool that follows: 3x3 windows at stride 2.

A warp has 16 pixels side by side of each row, and a lane the same two of every row. What a window
compares is first in the lane's own registers, then in those of lanes beside it:

    rows      the last one of a tile is kept for the next tile, as windows overlap
    columns   window j of a warp is its columns 2j and 2j + 1, exchanged between two lanes,
              and one more: of the pair before them (padded) or after them (not padded)
    warps     leave that one column in shared memory for the warp beside them

Lane row r has pixels r and r + 8. Even rows pool the pair (r, r + 1), odd ones (r + 7, r + 8).
"""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from schedules.families.few_channels.geometry import GROUP, POOL_STEP, ROWS, PooledGeometry
from schedules.families.few_channels.kernel import Kernel, Lane

#: Two halves that are less than everything.
LEAST = 0xFC00FC00
#: Columns of a warp that one lane pools; words of a group's channels that one lane has.
PAIRS, WORDS = ROWS // 2, 4


class PooledKernel(Kernel):
    """As `Kernel`, but what it writes is pooled."""

    g: PooledGeometry

    def _allocate(self) -> None:
        super()._allocate()
        g, new = self.g, self.lanes.registers
        self.kept = new((g.part_groups, 2, WORDS), "uint32")
        self.rows = new((g.windows, g.part_groups, 2, WORDS), "uint32")
        self.sent, self.came, self.edge, self.best = (
            new((g.windows, g.part_groups, WORDS), "uint32") for _ in range(4)
        )
        with self._each(), self._grid(g.part_groups, 2, WORDS) as index:
            self.kept.set(T.uint32(LEAST), *index)

    def _load_channels(self) -> None:
        """Not once for all tiles: while the sums are added up there is no room for them."""

    def _at(self, tile: Any) -> tuple[Any, Any, Any]:
        """Tiles follow each other downwards."""
        g = self.g
        _, down, across = g.tiles
        strip, row = tile // down, tile % down
        column = (strip % across * g.columns - g.skipped) * POOL_STEP
        return strip // across, row * self.config.rows + g.first_row, column

    def _await(self, turn: Any) -> None:
        """Later on, the barrier between a warp and that beside it is for this as well."""
        with T.If(turn == 0), T.Then():
            self.lanes.wait()

    def _write(self, tile: Any, turn: Any) -> None:
        super()._load_channels()
        self._pool_rows(tile)
        self._pool_pairs(turn)
        self.lanes.wait()
        self._pool_edges(turn)
        self._store(tile, turn)

    # -------------------------------------------------------- down

    def _pool_rows(self, tile: Any) -> None:
        """The largest of three rows: the one kept, then two more, of which the last is kept."""
        g = self.g
        _, p, q = self._at(tile)
        first = tile % g.tiles[1] == 0
        with self._each() as lane, self._grid(g.part_groups, 2) as (group, eight):
            column = q + lane.column * ROWS + lane.row + 8 * eight
            with T.If(first), T.Then(), self._grid(WORDS) as (i,):
                self.kept.set(T.uint32(LEAST), group, eight, i)
            with self._grid(g.windows) as (window,):
                for row in range(POOL_STEP):
                    line = window * POOL_STEP + row
                    self._finish(line, eight, group)
                    inside = self._inside(p + line, column)
                    with self._grid(WORDS) as (i,):
                        word = T.Select(inside, self.result[i], T.uint32(LEAST))
                        at = (window, group, eight, i)
                        if row == 0:
                            self.rows.set(self.kept[group, eight, i], *at)
                        else:
                            self.kept.set(word, group, eight, i)
                        self.lanes.maximum(self.rows, word, *at)

    def _inside(self, line: Any, column: Any) -> Any:
        """Whether the convolution has such a pixel; asked for where it may have none alone."""
        g, w = self.g, self.w
        conditions = []
        if (g.tiles[1] - g.idle) * self.config.rows + g.idle > w.p:
            conditions.append(line < w.p)
        if g.skipped:
            conditions.append(column >= 0)
        if g.tiles[2] * g.columns * POOL_STEP > w.q or g.tiles[2] > 1:
            conditions.append(column < w.q)
        return tirx.all(*conditions, tirx.const(True))

    # -------------------------------------------------------- across

    def _pool_pairs(self, turn: Any) -> None:
        """The largest of a pair's columns; and the column that the pair beside it needs."""
        g = self.g
        registers = (g.windows, g.part_groups, WORDS)
        with self._each() as lane, self._grid(*registers) as (window, group, i):
            odd = lane.row % 2 == 1
            low, high = (self.rows[window, group, eight, i] for eight in range(2))
            self.best.set(T.Select(odd, high, low), window, group, i)
            self.sent.set(T.Select(odd, low, high), window, group, i)
        with self._each() as lane, self._grid(*registers) as at:
            self.lanes.shuffle(self.came, self.sent, lane.lane ^ 4, *at)
            # Of an odd row, its own pixel is the pair's right one, of an even row its left one.
            own = lane.row % 2 == self.g.pool.padding[1]
            self.edge.set(T.Select(own, self.best[at], self.came[at]), *at)
            self.lanes.maximum(self.best, self.came[at], *at)
        with self._each() as lane, self._grid(g.windows, g.part_groups) as at:
            outermost = _number(lane) == self._outermost(not g.pool.padding[1])
            to = self._place(lane, turn, lane.column, *at)
            with T.If(outermost), T.Then():
                self.lanes.leave(self.shared, to, self.edge, *at)

    def _outermost(self, first: bool) -> int:
        return 0 if first else PAIRS - 1

    def _place(self, lane: Lane, turn: Any, column: Any, window: Any, group: Any) -> Any:
        """Of what warp number `column` of a row leaves in its turn."""
        g = self.g
        warp = (window * self.config.across + column) * g.groups
        group = warp + lane.part * g.part_groups + group
        first = g.edges + turn % 2 * g.edge_words
        return first + group * (GROUP // 2) + lane.pair * WORDS

    def _pool_edges(self, turn: Any) -> None:
        """With the column of the pair beside each, which may be another warp's."""
        g = self.g
        before = bool(g.pool.padding[1])
        step = -1 if before else 1
        with self._each() as lane, self._grid(g.windows, g.part_groups, WORDS) as at:
            other = (_number(lane) + step + PAIRS) % PAIRS
            row = other % (PAIRS // 2) * 2 + other // (PAIRS // 2)
            self.lanes.shuffle(self.came, self.edge, row * 4 + lane.pair, *at)
        with self._each() as lane, self._grid(g.windows, g.part_groups) as at:
            column = lane.column + step
            there = tirx.all(column >= 0, column < self.config.across)
            with T.If(_number(lane) == self._outermost(before)), T.Then(), T.If(there):
                with T.Then(), T.vectorized(WORDS) as i:
                    word = self.shared[self._place(lane, turn, column, *at) + i]
                    self.came.set(word, *at, i)
                with T.Else(), T.vectorized(WORDS) as i:
                    self.came.set(T.uint32(LEAST), *at, i)
            with self._grid(WORDS) as (i,):
                self.lanes.maximum(self.best, self.came[(*at, i)], *at, i)
                if self.relu:
                    self.lanes.maximum(self.best, T.uint32(0), *at, i)

    def _store(self, tile: Any, turn: Any) -> None:
        """16 bytes a store; the first tile of a block was only for its last row."""
        g = self.g
        rows, columns = g.pool.size
        n, _, q = self._at(tile)
        at = tile % g.tiles[1] - g.idle
        with self._each() as lane, self._grid(g.windows, g.part_groups) as (window, group):
            first = self._channel(lane, group)
            pair = lane.column * PAIRS + _number(lane)
            line, column = at * g.windows + window, q // POOL_STEP + pair
            inside = [turn > 0, line >= 0, line < rows, column < columns, first < self.w.k]
            if g.overlap:
                inside += [pair >= g.skipped, pair < g.skipped + g.columns]
            inside.append(tile < math.prod(g.tiles))
            with T.If(tirx.all(*inside)), T.Then(), T.vectorized(8) as v:
                value = self.best.half(window, group, v)
                T.buffer_store(self.y, value, [n, line, column, first + v])


def _number(lane: Lane) -> Any:
    """Which pair of the warp's columns a lane pools."""
    return lane.row // 2 + lane.row % 2 * (PAIRS // 2)
