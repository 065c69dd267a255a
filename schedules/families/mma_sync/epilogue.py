"""How sums leave the registers of the mma.sync kernel: 8 adjacent channels of a pixel at a time.

A unit is 8 rows by 32 channels. In it a lane finishes and stores the channels (lane % 4) * 8 to
+ 8 of row lane // 4. It gets them by exchange with its three neighbours or, where partial sums of
several warps or blocks are to be added, through shared memory, in the order of warps and blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.conv.gemm import Gemm, pixel
from schedules.conv.signature import BIAS, RESIDUAL, SLOPE
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.expressions.backend import GPU_ARITHMETIC, vector_width
from schedules.expressions.compute import finished
from schedules.families.mma_sync.build import Parameters, Thread, bind, local, ptx, when
from schedules.families.mma_sync.config import SUMS_STRIDE, MmaSyncConfig

#: Channels of one lane in a unit, of which it has 8 rows and 32 channels.
WIDTH = 8
UNIT_FLOATS = 8 * SUMS_STRIDE


class Epilogue:
    """From the sums of the warps to y."""

    def __init__(
        self, w: ConvWorkload, gemm: Gemm, config: MmaSyncConfig, thread: Thread, to: Parameters
    ) -> None:
        self.w, self.gemm, self.config, self.thread, self.to = w, gemm, config, thread, to
        self.value = local("value", (WIDTH,), "float32")
        self.done = local("done", (WIDTH,), w.precision.result)
        self.vectors = {
            name: local(f"{name}_vector", (WIDTH,), buffer.dtype)
            for name in ("bias", "slope", "residual")
            if (buffer := getattr(to, name)) is not None
        }
        # What a vector has to divide: adjacent channels of a group, where they are written.
        self.width = vector_width(math.gcd(w.group_k, w.window.adjacent if w.window else 0), WIDTH)

    def from_registers(self, sums: Any) -> None:
        """Where each warp has whole sums: unit by unit, channels outermost, whose bias is loaded
        once."""
        config, thread = self.config, self.thread
        for k in range(config.fragments_k // 2):
            column = self._column(thread.warp_k * (config.fragments_k * 16) + k * 32)
            self._load_channels(column)
            for m in range(config.fragments_m):
                for half in range(2):
                    self._exchange(sums, m, half, k)
                    row = thread.warp_m * (config.fragments_m * 16) + m * 16 + half * 8
                    self._store(self._row(row), column)

    def through_shared(self, sums: Any, shared: Any) -> None:
        """Where sums are parts: all to shared memory, then each warp of each block of the cluster
        adds up some units."""
        config, thread, tile = self.config, self.thread, self.config.tile
        floats = T.decl_buffer(
            (shared.shape[0] // 2,), "float32", data=shared.data, scope=shared.scope()
        )
        T.evaluate(T.tvm_storage_sync(shared.scope()))
        self._put(sums, floats)
        self._everyone(shared)
        across = tile.k // 32
        units, workers = tile.m // 8 * across, config.split * config.warps
        worker = bind("worker", thread.rank * config.warps + thread.number // 32)
        for turn in range(ceil_div(units, workers)):
            unit = bind("unit", turn * workers + worker)
            with when(unit < units):
                self._add_up(floats, unit)
                column = self._column(unit % across * 32)
                self._load_channels(column)
                self._store(self._row(unit // across * 8), column)
        if config.split > 1:
            T.evaluate(T.cuda.cluster_sync())  # nobody leaves while others read its memory

    # ---------------------------------------------------------------- to eight channels a lane

    def _exchange(self, sums: Any, m: int, half: int, k: int) -> None:
        """The four lanes of a row have two channels of each of four fragments, and want all eight
        of one: a transposition of 4 x 4, by swaps with the next lane and the next but one."""
        lane, value = self.thread.lane, self.value
        for tile in range(4):
            for e in range(2):
                T.buffer_store(value, sums[m, k * 4 + tile, half * 2 + e], [tile * 2 + e])
        for mask in (1, 2):
            upper = tirx.NE(lane & mask, 0)
            for low in (tile for tile in range(4) if not tile & mask):
                for e in range(2):
                    a = bind("a", value[low * 2 + e])
                    b = bind("b", value[(low | mask) * 2 + e])
                    sent = bind("sent", T.Select(upper, a, b))
                    got = bind(
                        "got", T.tvm_warp_shuffle_xor(T.uint32(0xFFFFFFFF), sent, mask, 32, 32)
                    )
                    T.buffer_store(value, T.Select(upper, got, a), [low * 2 + e])
                    T.buffer_store(value, T.Select(upper, b, got), [(low | mask) * 2 + e])

    def _put(self, sums: Any, floats: Any) -> None:
        """This warp's parts to shared memory, by unit."""
        config, thread, lane = self.config, self.thread, self.thread.lane
        across = config.tile.k // 32
        first_row = thread.warp_m * (config.fragments_m * 2)
        first_column = thread.warp_k * (config.fragments_k // 2)
        units = config.tile.m // 8 * across
        for m in range(config.fragments_m):
            for half in range(2):
                for k in range(config.fragments_k * 2):
                    unit = (first_row + m * 2 + half) * across + first_column + k // 4
                    here = (thread.warp_i * units + unit) * UNIT_FLOATS
                    here += lane // 4 * SUMS_STRIDE + k % 4 * 8 + lane % 4 * 2
                    for e in range(2):
                        T.buffer_store(floats, sums[m, k, half * 2 + e], [here + e])

    def _everyone(self, shared: Any) -> None:
        if self.config.split > 1:
            T.evaluate(T.cuda.cluster_sync())
        else:
            T.evaluate(T.tvm_storage_sync(shared.scope()))

    def _add_up(self, floats: Any, unit: Any) -> None:
        """The parts of a unit, block by block and warp by warp, each in ascending order."""
        config, value, lane = self.config, self.value, self.thread.lane
        units = config.tile.m // 8 * (config.tile.k // 32)
        part = local("part", (4,), "float32")
        address = local("address", (1,), "uint32")
        for e in range(WIDTH):
            T.buffer_store(value, T.float32(0), [e])
        for rank in range(config.split):
            for warp_i in range(config.warps_i):
                here = (warp_i * units + unit) * UNIT_FLOATS
                here += lane // 4 * SUMS_STRIDE + lane % 4 * WIDTH
                for e in range(0, WIDTH, 4):
                    pointer = T.cuda.cvta_generic_to_shared(T.address_of(floats[here + e]))
                    if config.split > 1:
                        rank_of = T.uint32(rank)
                        ptx("mapa.shared::cluster.u32", address[0], pointer, rank_of)
                        pointer = address[0]
                        space = "shared::cluster"
                    else:
                        space = "shared"
                    ptx(f"ld.{space}.v4.f32", *[part[i] for i in range(4)], pointer)
                    for i in range(4):
                        T.buffer_store(value, value[e + i] + part[i], [e + i])

    # ---------------------------------------------------------------- from eight channels to y

    def _row(self, row: Any) -> Any:
        return bind("m", self.thread.m + row + self.thread.lane // 4)

    def _column(self, column: Any) -> Any:
        """Of this lane's first channel, within its group."""
        return bind("column", self.thread.k + column + self.thread.lane % 4 * WIDTH)

    def _inside(self, column: Any, visit: Callable[[int], None]) -> None:
        """Visits each vector of a lane's channels that exists."""
        for e in range(0, WIDTH, self.width):
            if self.gemm.k_pad > self.gemm.k:
                with when(column + e < self.gemm.k):
                    visit(e)
            else:
                visit(e)

    def _load_channels(self, column: Any) -> None:
        k = self.thread.group * self.w.group_k + column

        def load(e: int) -> None:
            for name in ("bias", "slope"):
                if name in self.vectors:
                    _copy(self.vectors[name], e, getattr(self.to, name), k + e, self.width)

        if "bias" in self.vectors or "slope" in self.vectors:
            self._inside(column, load)

    def _store(self, m: Any, column: Any) -> None:
        if self.gemm.m_pad > self.gemm.m:
            with when(m < self.gemm.m):
                self._inside(column, lambda e: self._finish(m, column, e))
        else:
            self._inside(column, lambda e: self._finish(m, column, e))

    def _finish(self, m: Any, column: Any, e: int) -> None:
        """A vector of a row, from its sums to y."""
        w, width, residual = self.w, self.width, self.vectors.get("residual")
        k = self.thread.group * w.group_k + column + e
        to, from_residual = self._places(m, k)
        if residual is not None:
            _copy(residual, e, self.to.residual, from_residual, width)
        loaded = [self.vectors.get(name) for name in (BIAS, SLOPE, RESIDUAL)]
        for i in range(e, e + width):
            elements = [None if one is None else one[i] for one in loaded]
            T.buffer_store(self.done, finished(w, self.value[i], *elements), [i])
        _copy(self.to.y, to, self.done, e, width)

    def _places(self, m: Any, k: Any) -> tuple[Any, Any]:
        """Where channel k of row m lies in y and in the residual."""
        w, window = self.w, self.w.window
        if window is None:
            return m * w.k + k, m * w.k + k
        n, p, q = pixel(w, m)
        row, column = window.pixel(p, q)
        at = bind("at", (n * window.rows + row) * window.columns + column)
        return at * window.channels + window.position(k), at * w.k + k


def _copy(to: Any, to_first: Any, source: Any, source_first: Any, width: int) -> None:
    """So many adjacent elements, in accesses of 16 bytes at most."""
    widest = GPU_ARITHMETIC if source.dtype == "float32" else width
    lanes = min(width, widest)
    for e in range(0, width, lanes):
        if lanes == 1:
            T.buffer_store(to, source[source_first + e], [to_first + e])
        else:
            with T.vectorized(lanes) as lane:
                T.buffer_store(to, source[source_first + e + lane], [to_first + e + lane])
