"""The epilogue of the mma.sync kernel: accumulators to y, eight adjacent channels at a time.

A unit is 8 rows by 32 output channels: the upper or lower half of four accumulator fragments. In
it a lane finishes and stores channels 8 (l % 4) to 8 (l % 4) + 7 of row l // 4. It gets them from
its three neighbours or, where accumulators of several warps or blocks are added, through shared
memory, in the order of blocks and warps. Of integers it has them: see `plan.adjacent_channel`.

Channels of a row of a unit that each lane holds, before and after:

    fragment      0                1                2                3
    channels      0-1 2-3 4-5 6-7  8-9 ...                        ... 30-31
    before        l0  l1  l2  l3   l0  l1  l2  l3   l0  l1  l2  l3   l0  l1  l2  l3
    after         l0  l0  l0  l0   l1  l1  l1  l1   l2  l2  l2  l2   l3  l3  l3  l3
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from schedules.conv.gemm import pixel
from schedules.conv.signature import RESIDUAL, Y, channel_operands
from schedules.conv.workload import ceil_div
from schedules.expressions.backend import access_elements, vector_width
from schedules.expressions.compute import finished
from schedules.expressions.packed_results import packed_results
from schedules.families.mma_sync.block import Block
from schedules.families.mma_sync.plan import FRAGMENT, UNIT_COLUMNS, UNIT_ROWS, WIDTH
from schedules.threads import packed_bytes, ptx
from schedules.threads.control import Index, vectorized, when
from schedules.threads.registers import Registers, bind, keep
from schedules.threads.shared_memory import SharedArray

#: Lanes that share a row of a unit.
LANES = 4
#: Accumulators that one load from shared memory takes.
LOADED = 4


class Epilogue:
    """From the accumulators of the warps to y."""

    def __init__(self, block: Block) -> None:
        self.block, self.plan, self.config = block, block.plan, block.plan.config
        self.w, self.gemm = self.plan.w, self.plan.gemm
        precision = self.w.precision
        self.value = Registers.array("value", (WIDTH,), precision.accumulator)
        self.done = Registers.array("done", (WIDTH,), precision.result)
        #: Operands of the epilogue: a lane's channels of each.
        self.vectors = {
            name: Registers.array(f"{name}_vector", (WIDTH,), self.plan.signature[name].dtype)
            for name in (*channel_operands(self.w), *[RESIDUAL] * self.w.epilogue.residual)
        }
        #: Channels of one vector: adjacent channels of a group, where they are stored.
        adjacent = self.w.window.adjacent if self.w.window else 0
        self.width = vector_width(math.gcd(self.w.group_k, adjacent), WIDTH)
        #: True where results or residuals are bytes that are made or read four at a time.
        four = self.width % packed_bytes.EACH == 0
        self.packs = four and dtypes.get(precision.result).bytes == 1
        self.unpacks = four and dtypes.get(precision.added).bytes == 1

    def from_registers(self, accumulators: Registers) -> None:
        """Stores where each warp has the whole reduction: unit by unit, output channels outermost,
        so that bias and slopes are loaded once."""
        config, block = self.config, self.block
        first_row = block.warp_m * (config.fragments_m * FRAGMENT)
        first_column = block.warp_k * (config.fragments_k * FRAGMENT)
        for k in range(config.fragments_k * FRAGMENT // UNIT_COLUMNS):
            column = self._column(first_column + k * UNIT_COLUMNS)
            self._load_channels(column)
            for m in range(config.fragments_m):
                for half in range(2):
                    self._gather(accumulators, m, half, k)
                    row = first_row + m * FRAGMENT + half * UNIT_ROWS
                    self._store(self._row(row), column)

    def through_shared(self, accumulators: Registers) -> None:
        """Stores where warps or blocks have parts of the reduction: all parts go to shared memory,
        then each warp of the cluster adds up some units and stores them."""
        config, block, plan = self.config, self.block, self.plan
        staged = block.shared.array("accumulators")
        ptx.shared_sync()  # others may still load a fragment past the end, from a stage there
        self._stage(accumulators, staged)
        self._sync_cluster()
        across = config.tile.k // UNIT_COLUMNS
        workers = config.split * config.warps
        worker = bind("worker", block.thread.rank * config.warps + block.thread.warp)
        for turn in range(ceil_div(plan.units, workers)):
            unit = bind("unit", turn * workers + worker)
            with when(unit < plan.units):
                self._add_up(staged, unit)
                column = self._column(unit % across * UNIT_COLUMNS)
                self._load_channels(column)
                self._store(self._row(unit // across * UNIT_ROWS), column)
        if config.split > 1:
            ptx.cluster_sync()  # no block ends while others read its memory

    def _sync_cluster(self) -> None:
        """Makes all threads of the cluster wait for each other."""
        if self.config.split > 1:
            ptx.cluster_sync()
        else:
            ptx.shared_sync()

    # ---------------------------------------------------------------- to eight channels a lane

    def _gather(self, accumulators: Registers, m: int, half: int, k: int) -> None:
        """Gives each lane its channels of a unit."""
        for tile in range(LANES):
            for e in range(2):
                self.value[tile * 2 + e] = accumulators[m, k * LANES + tile, half * 2 + e]
        if not self.plan.adjacent:
            self._exchange()

    def _exchange(self) -> None:
        """Exchanges a unit among lanes (see the picture): a transposition of 4 x 4 pairs, by swaps
        with the next lane and the next but one."""
        lane, value = self.block.lane, self.value
        for mask in (1, 2):
            upper = tirx.NE(lane & mask, 0)
            for low in (tile for tile in range(LANES) if not tile & mask):
                for e in range(2):
                    a = bind("a", value[low * 2 + e])
                    b = bind("b", value[(low | mask) * 2 + e])
                    sent = bind("sent", T.Select(upper, a, b))
                    got = bind("got", ptx.shuffle_xor(sent, mask))
                    value[low * 2 + e] = T.Select(upper, got, a)
                    value[(low | mask) * 2 + e] = T.Select(upper, b, got)

    def _stage(self, accumulators: Registers, staged: SharedArray) -> None:
        """The warp's accumulators to shared memory, by unit."""
        config, block, lane = self.config, self.block, self.block.lane
        across = config.tile.k // UNIT_COLUMNS
        first_row = block.warp_m * (config.fragments_m * FRAGMENT // UNIT_ROWS)
        first_column = block.warp_k * (config.fragments_k * FRAGMENT // UNIT_COLUMNS)
        for m in range(config.fragments_m):
            for half in range(2):
                if self.plan.adjacent:
                    row = (first_row + m * 2 + half) * across + first_column
                    self._stage_adjacent(accumulators, staged, (m, half), row)
                    continue
                for k in range(config.fragments_k * 2):
                    unit = (first_row + m * 2 + half) * across + first_column + k // LANES
                    column = k % LANES * 8 + lane % 4 * 2
                    for e in range(2):
                        value = accumulators[m, k, half * 2 + e]
                        staged[block.warp_i, unit, lane // 4, column + e] = value

    def _stage_adjacent(
        self, accumulators: Registers, staged: SharedArray, at: tuple[int, int], unit: Index
    ) -> None:
        """The same of half a row of fragments whose lanes hold adjacent channels, 16 bytes at a
        time. at: the row of fragments, and which half. unit: the first."""
        block, (m, half), bits = self.block, at, accumulators.view("uint32")
        for k in range(0, self.config.fragments_k * 2, 2):
            column = block.lane % LANES * WIDTH + k % LANES * 2
            to = staged.pointer(block.warp_i, unit + k // LANES, block.lane // LANES, column)
            ptx.store_shared(to, [bits[m, k + e // 2, half * 2 + e % 2] for e in range(LOADED)])

    def _add_up(self, staged: SharedArray, unit: Expr) -> None:
        """The lane's channels of a unit: block by block and warp by warp, in ascending order."""
        config, value, lane = self.config, self.value, self.block.lane
        loaded = Registers.array("loaded", (LOADED,), self.w.precision.accumulator)
        words = loaded.view("uint32") if self.plan.adjacent else loaded
        remote = Registers.array("remote", (1,), "uint32")
        for e in range(WIDTH):
            value[e] = tirx.const(0, self.w.precision.accumulator)
        for rank in range(config.split):
            for warp_i in range(config.warps_i):
                for e in range(0, WIDTH, LOADED):
                    pointer = staged.pointer(warp_i, unit, lane // LANES, lane % LANES * WIDTH + e)
                    address = ptx.shared_address(pointer)
                    if config.split > 1:
                        ptx.map_to_rank(remote[0], address, T.uint32(rank))
                        address = remote[0]
                    registers = [words[i] for i in range(LOADED)]
                    ptx.load_shared(registers, address, cluster=config.split > 1)
                    for i in range(LOADED):
                        value[e + i] = value[e + i] + loaded[i]

    # ---------------------------------------------------------------- from eight channels to y

    def _row(self, row: Index) -> Index:
        """The lane's row of the GEMM. row: first row of the unit in the output tile."""
        return bind("m", self.block.m + row + self.block.lane // LANES)

    def _column(self, column: Index) -> Index:
        """The lane's first channel in its group. column: first one of the unit in the tile."""
        return bind("column", self.block.k + column + self.block.lane % LANES * WIDTH)

    def _inside(self, column: Index, visit: Callable[[int], None]) -> None:
        """Visits each vector of the lane's channels that exists."""
        for e in range(0, WIDTH, self.width):
            if self.gemm.k_pad > self.gemm.k:
                with when(column + e < self.gemm.k):
                    visit(e)
            else:
                visit(e)

    def _load_channels(self, column: Index) -> None:
        """Loads the lane's channels of bias and slopes."""
        k = self.block.group * self.w.group_k + column
        names = channel_operands(self.w)

        def load(e: int) -> None:
            for name in names:
                source = self.block.operands[name]
                _copy(self.vectors[name].buffer, e, source, k + e, self.width)

        if names:
            self._inside(column, load)

    def _store(self, m: Index, column: Index) -> None:
        """Finishes and stores the lane's channels of row m, if there is such a row."""
        if self.gemm.m_pad > self.gemm.m:
            with when(m < self.gemm.m):
                self._inside(column, lambda e: self._finish(m, column, e))
        else:
            self._inside(column, lambda e: self._finish(m, column, e))

    def _finish(self, m: Index, column: Index, e: int) -> None:
        """A vector of a row, from its accumulators to y."""
        w, width, operands = self.w, self.width, self.block.operands
        k = self.block.group * w.group_k + column + e
        to, from_residual = self._places(m, k)
        if RESIDUAL in self.vectors:
            _copy(self.vectors[RESIDUAL].buffer, e, operands[RESIDUAL], from_residual, width)
        if self.packs:
            for i in range(e, e + width, packed_bytes.EACH):
                self._pack(i)
        else:
            for i in range(e, e + width):
                self.done[i] = finished(w, self.value[i], self._given(i))
        _copy(operands[Y], to, self.done.buffer, e, width)

    def _given(self, i: int) -> dict[str, Expr]:
        """The lane's i-th channel of each operand of the epilogue, by name."""
        given = {name: vector[i] for name, vector in self.vectors.items()}
        if RESIDUAL in given and self.unpacks:
            word = self.vectors[RESIDUAL].view("uint32")[i // packed_bytes.EACH]
            value = packed_bytes.unpack(word, i % packed_bytes.EACH, self.w.precision.added)
            given[RESIDUAL] = keep("residual", value)
        return given

    def _pack(self, first: int) -> None:
        """The results of four channels as bytes."""
        four = range(first, first + packed_bytes.EACH)
        totals, given = [self.value[i] for i in four], [self._given(i) for i in four]
        self.done.view("uint32")[first // packed_bytes.EACH] = packed_results(self.w, totals, given)

    def _places(self, m: Index, k: Index) -> tuple[Index, Index]:
        """The elements of y and of the residual that are channel k of row m."""
        w, window = self.w, self.w.window
        if window is None:
            return m * w.k + k, m * w.k + k
        n, p, q = pixel(w, m)
        row, column = window.pixel(p, q)
        at = bind("at", (n * window.rows + row) * window.columns + column)
        return at * window.channels + window.position(k), at * w.k + k


def _copy(to: Expr, to_first: Index, source: Expr, source_first: Index, width: int) -> None:
    """Copies `width` adjacent elements of a buffer to another one, in the widest accesses."""
    lanes = min(width, access_elements(str(source.dtype)))
    for e in range(0, width, lanes):
        if lanes == 1:
            T.buffer_store(to, source[source_first + e], [to_first + e])
        else:
            with vectorized(lanes) as lane:
                T.buffer_store(to, source[source_first + e + lane], [to_first + e + lane])
