"""The epilogue of the WGMMA kernel where a cluster shares a tile, or the output is scattered.

Accumulators go to shared memory, where the stages were. Then each block of the cluster adds up and
finishes its share of the tile, always in the same order:

    block 0   | tile of partial sums |   \\
    block 1   | tile of partial sums |    > added in this order, element by element
      ...                                /
    share     the rows of the tile one after another, cut into runs of adjacent channels; block r
              has runs r * share to (r + 1) * share, its consumer threads one after another
"""

from __future__ import annotations

import math

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes, wgmma
from schedules.conv.signature import RESIDUAL
from schedules.conv.workload import ceil_div
from schedules.expressions.backend import access_elements, vector_width
from schedules.expressions.compute import finished
from schedules.expressions.packed_results import packed_results
from schedules.families.wgmma.block import Block
from schedules.threads import packed_bytes, ptx
from schedules.threads.control import grid, serial, unrolled, vectorized, when
from schedules.threads.registers import Registers, keep
from schedules.threads.shared_memory import SharedArray

#: The barrier by which all consumers of a block wait for each other.
CONSUMERS_BARRIER = 1
#: The most channels that a thread finishes at once.
MOST_CHANNELS = 8


class ClusterStore:
    """Stores the tile of a cluster."""

    def __init__(self, block: Block) -> None:
        self.block, self.plan, self.config = block, block.plan, block.plan.config
        w = block.plan.w
        adjacent = w.window.adjacent if w.window else 0
        #: Adjacent channels that one thread finishes and stores at once.
        self.width = vector_width(
            math.gcd(w.k, adjacent), min(access_elements(w.precision.result), MOST_CHANNELS)
        )
        #: Registers of accumulators in shared memory, by their dtype there.
        self.integers = dtypes.get(w.precision.accumulator).integer

    def begin(self) -> None:
        """Nothing is loaded ahead."""

    def begin_tile(self) -> None:
        """Nor then."""

    def store(self, accumulators: Registers, m: Expr, k: Expr) -> None:
        """Stores the block's share. m: first row of the warpgroup's part. k: first column."""
        config, block = self.config, self.block
        staged = block.shared.array("accumulators")
        self._sync()  # others may still multiply out of the stages that lie there
        self._stage(accumulators, staged)
        self._sync_cluster()
        share = config.rows * config.columns // self.width // config.split
        workers = config.warpgroups * wgmma.WARPGROUP
        with serial(ceil_div(share, workers), "turn") as turn:
            item = turn * workers + block.group * wgmma.WARPGROUP + block.lane
            item = keep("item", item)
            with when(item < share):
                first_row = m - block.group * config.group_rows
                self._store_run(staged, first_row, k, block.thread.rank * share + item)
        if config.split > 1:
            ptx.cluster_sync()  # no block ends while others read its memory

    def end(self) -> None:
        """Nothing is under way."""

    def _sync(self) -> None:
        """Makes the consumers of the block wait for each other."""
        config = self.config
        threads = config.warpgroups * wgmma.WARPGROUP
        ptx.barrier_sync(CONSUMERS_BARRIER + config.warpgroups, threads)

    def _sync_cluster(self) -> None:
        """Makes the consumers of the cluster wait for each other."""
        if self.config.split > 1:
            ptx.cluster_sync()
        else:
            self._sync()

    def _stage(self, accumulators: Registers, staged: SharedArray) -> None:
        """This thread's accumulators to shared memory, as rows and columns of the tile."""
        config, block = self.config, self.block
        if self.plan.adjacent:
            self._stage_adjacent(accumulators, staged)
            return
        with grid(config.fragments, config.columns // 4) as (fragment, i):
            row, column = wgmma.element(block.lane, i * 2)
            row = (block.group * config.fragments + fragment) * wgmma.M + row
            with vectorized(2) as odd:
                register = fragment * config.columns // 2 + i * 2 + odd
                staged[row, column + odd] = accumulators[register]

    def _stage_adjacent(self, accumulators: Registers, staged: SharedArray) -> None:
        """The same where each thread has four adjacent columns of 16."""
        config, block = self.config, self.block
        registers = accumulators.view("uint32")
        with grid(config.fragments, config.columns // wgmma.ADJACENT, 2) as (fragment, i, low):
            first = i * 8 + low * 2
            row, column = wgmma.adjacent_element(block.lane, first)
            row = (block.group * config.fragments + fragment) * wgmma.M + row
            first = fragment * config.columns // 2 + first
            four = [registers[first + odd] for odd in (0, 1, 4, 5)]
            ptx.store_shared(staged.pointer(row, column), four)

    def _store_run(self, staged: SharedArray, m: Expr, k: Expr, item: Expr) -> None:
        """Finishes the `item`-th run of adjacent channels of the tile at (m, k)."""
        w, width = self.plan.w, self.width
        across = self.config.columns // width
        row = keep("row", item // across)
        column = keep("column", item % across * width)
        with when(tirx.all(m + row < self.plan.m, k + column < w.k)):
            sums = self._add_up(staged, row, column)
            n = keep("n", (m + row) // (w.p * w.q))
            p = keep("p", (m + row) // w.q % w.p)
            q = keep("q", (m + row) % w.q)
            self._finish(sums, (n, p, q), k + column)

    def _add_up(self, staged: SharedArray, row: Expr, column: Expr) -> Registers:
        """The sums of all blocks of the cluster, in order, in the first `width` registers. All are
        loaded before any is added: each takes as long as a load from the L2 cache."""
        split, width = self.config.split, self.width
        vector = min(width, 4)
        sums = Registers.array("sums", (split * width,), self.plan.w.precision.accumulator)
        registers = sums.view("uint32") if self.integers else sums
        local = keep("local", ptx.shared_address(staged.pointer(row, column)))
        with unrolled(split) as rank:
            remote = keep("remote", local)
            if split > 1:
                ptx.map_to_rank(remote, local, T.uint32(rank))
            with unrolled(width // vector) as i:
                first = rank * width + i * vector
                loaded = [registers[first + j] for j in range(vector)]
                ptx.load_shared(loaded, remote + T.uint32(4 * i * vector), cluster=True)
        with unrolled(split - 1) as rank, unrolled(width) as e:
            sums[e] = sums[e] + sums[(rank + 1) * width + e]
        return sums

    def _finish(self, sums: Registers, pixel: tuple[Expr, Expr, Expr], k: Expr) -> None:
        """Channels from k on of a pixel (n, p, q): through the epilogue to y."""
        w, width, operands = self.plan.w, self.width, self.block.operands
        n, p, q = pixel
        at = (n, *(w.window.pixel(p, q) if w.window else (p, q)))
        elements = Registers.array("elements", (width,), w.precision.result)
        residual = None
        if w.epilogue.residual:
            residual = Registers.array("residual", (width,), w.precision.added)
            with vectorized(width) as e:
                # A multiple of the width, said so that TVM loads one vector.
                residual[e] = operands["residual"][(*at, k // width * width + e)]
        if self.plan.stored.bytes == 1 and width % packed_bytes.EACH == 0:
            self._pack(elements.view("uint32"), sums, residual, k)
        else:
            with unrolled(width) as e:
                given = self.block.channels(k + e)
                if residual is not None:
                    given[RESIDUAL] = residual[e]
                elements[e] = finished(w, sums[e], given)
        with vectorized(width) as e:
            to = k + e if w.window is None else w.window.position(k + e)
            T.buffer_store(operands["y"], elements[e], [*at, to])

    def _pack(self, words: Registers, sums: Registers, residual: Registers | None, k: Expr) -> None:
        """The 8-bit results of channels from k on, packed into words."""
        w, each = self.plan.w, packed_bytes.EACH
        for i in range(self.width // each):
            channels = self.block.adjacent_channels(keep("quad", k // each + i))
            given = [{name: own[e] for name, own in channels.items()} for e in range(each)]
            if residual is not None:
                for e in range(each):
                    given[e][RESIDUAL] = self._residual(residual, i * each + e)
            totals = [sums[i * each + e] for e in range(each)]
            words[i] = packed_results(w, totals, given)

    def _residual(self, held: Registers, e: int) -> Expr:
        added, each = self.plan.added, packed_bytes.EACH
        if added.bytes > 1:
            return held[e]
        return packed_bytes.unpack(held.view("uint32")[e // each], e % each, added.name)
