"""The epilogue of the WGMMA kernel where the copy engine can store the output: piece by piece.

Each warpgroup turns a few columns at a time into elements of the output in one of its buffers, into
which the copy engine has loaded the residual's piece, and the engine stores them while the next
piece is made:

    piece         0    1    2    3  ...
    buffer        0    1    0    1          the next tile goes on with the buffer that is in turn
    residual      loaded before the first step for pieces 0 and 1; for piece i + 2 as soon as
                  piece i has been stored out of its buffer

With more than two buffers, such as three, it is loaded ahead, over the end of a tile:

    buffer        0    1    2    0
    residual      loaded before the first tile for pieces 0 and 1; for piece i + 2, perhaps of the
                  next tile, when piece i is done, as soon as piece i - 1 is out of its buffer

A piece is 64 rows of `piece` columns. ldmatrix and stmatrix move 16 x 16 elements of it at a time,
a pair of 8 columns; each lane names 16 bytes of one row, swizzled:

              columns 0-7      columns 8-15
    rows 0-7    matrix 0         matrix 2          lanes 0-7     lanes 16-23
    rows 8-15   matrix 1         matrix 3          lanes 8-15    lanes 24-31
"""

from __future__ import annotations

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import wgmma
from schedules.conv.signature import RESIDUAL
from schedules.expressions.compute import finished
from schedules.families.wgmma.block import WARPGROUP_BARRIER, Block, Tiles
from schedules.families.wgmma.tensor_maps import output_place
from schedules.threads import ptx
from schedules.threads.control import Index, unrolled, when
from schedules.threads.registers import Registers, Variable, keep


class TensorStore:
    """Stores the tiles of a warpgroup, one after another."""

    def __init__(self, block: Block, tiles: Tiles) -> None:
        self.tiles = tiles
        self.block, self.plan, self.config = block, block.plan, block.plan.config
        self.has_residual = block.plan.w.epilogue.residual
        #: True if the residual is loaded before its tile begins.
        self.ahead = self.config.buffers > 2
        self.across = self.config.columns // self.plan.piece
        self.full = block.shared.array("residual")
        self.buffer = Variable("buffer", 0)
        #: One bit for each buffer: the parity of the residual's next arrival.
        self.arrived = Variable("arrived", 0)

    def begin(self) -> None:
        """Before the first tile: loads the residual of its first pieces."""
        if self.has_residual and self.ahead:
            with when(self.block.lane == 0), unrolled(self.config.buffers - 1) as piece:
                self._load(piece, piece)

    def begin_tile(self) -> None:
        """Before a tile's first step: loads the residual of its first pieces, if it is not there
        already."""
        if self.has_residual and not self.ahead:
            with when(self.block.lane == 0):
                ptx.bulk_wait_read(0)
                with unrolled(min(self.config.buffers, self.plan.pieces)) as piece:
                    self._load(self._buffer_after(piece), piece)

    def store(self, accumulators: Registers, m: Expr, k: Expr) -> None:
        """Stores the warpgroup's part, with first row m and first column k."""
        plan, lane = self.plan, self.block.lane
        with unrolled(plan.pieces) as piece:
            self._await_buffer()
            column = keep("column", k + piece % self.across * plan.piece)
            with unrolled(plan.piece // 16) as pair:
                first = piece * plan.piece // 2 + pair * 8
                self._finish(accumulators, first, pair, column + pair * 16)
            ptx.fence_proxy()
            self._sync()
            with when(lane == 0):
                to = (output_place(plan)[0] + column, m + piece // self.across * wgmma.M)
                ptx.tensor_store(self.block.maps["y"], to, self._pointer(self.buffer.value))
                ptx.bulk_commit()
                self._load_next(piece)
            self.buffer.set(self._buffer_after(1))

    def end(self) -> None:
        """After the last tile: what the engine still reads must not go away."""
        with when(self.block.lane == 0):
            ptx.bulk_wait(0)

    def _pointer(self, buffer: Index) -> Expr:
        return self.block.shared.pointer("pieces", self.block.group, buffer)

    def _sync(self) -> None:
        """Makes the threads of the warpgroup wait for each other."""
        ptx.warpgroup_sync(WARPGROUP_BARRIER + self.block.group)

    def _buffer_after(self, pieces: Index) -> Expr:
        """The buffer of the piece that comes so many pieces after the one in turn."""
        return (self.buffer.value + pieces) % self.config.buffers

    def _load_next(self, piece: Expr) -> None:
        """One thread, when a piece is on its way out: loads the residual of a later one."""
        buffers = self.config.buffers
        if self.has_residual and self.ahead:
            ptx.bulk_wait_read(1)
            self._load(self._buffer_after(buffers - 1), piece + buffers - 1)
        elif self.has_residual:
            with when(piece + buffers < self.plan.pieces):
                ptx.bulk_wait_read(0)
                self._load(self.buffer.value, piece + buffers)

    def _load(self, buffer: Index, piece: Index) -> None:
        """One thread: loads the residual of a piece, counted from the tile's first one, if the
        block has a tile with it."""
        plan, block = self.plan, self.block
        full = self.full.pointer(block.group, buffer)
        with when(self.tiles.exists(piece // plan.pieces)):
            first_row, first_column = self.tiles.place(piece // plan.pieces)
            inside = piece % plan.pieces
            column = first_column + inside % self.across * plan.piece
            row = first_row + block.group * self.config.group_rows
            source = (column, row + inside // self.across * wgmma.M)
            ptx.mbarrier_arrive_expect(full, T.uint32(plan.piece_bytes))
            ptx.tensor_load(self._pointer(buffer), block.maps["residual"], source, full)

    def _await_buffer(self) -> None:
        """Waits until the buffer has the residual, or until it has been stored."""
        if self.has_residual:
            buffer, arrived = self.buffer.value, self.arrived.value
            parity = T.bitwise_and(T.shift_right(arrived, buffer), 1)
            ptx.mbarrier_wait(self.full.pointer(self.block.group, buffer), parity)
            self.arrived.set(T.bitwise_xor(arrived, T.shift_left(1, buffer)))
            return
        with when(self.block.lane == 0):
            ptx.bulk_wait_read(self.config.buffers - 1)
        self._sync()

    def _finish(self, accumulators: Registers, first: Expr, pair: Expr, column: Expr) -> None:
        """Eight accumulators from the `first` on, of 16 columns from `column` on, through the
        epilogue to shared memory."""
        plan = self.plan
        pointer = self.block.shared.pointer_to(keep("at", self._byte(pair)))
        elements = Registers.array("elements", (8,), plan.operand.name)
        packed = elements.view("uint32")
        if self.has_residual:
            ptx.ldmatrix([packed[i] for i in range(4)], pointer)
        with unrolled(2) as right, unrolled(2) as odd:
            inside = column + right * 8 + self.block.lane % 4 * 2 + odd
            c = keep("c", T.min(inside, plan.w.k - 1))
            given = self.block.channels(c)
            with unrolled(2) as low:
                i = right * 4 + low * 2 + odd
                if self.has_residual:
                    given[RESIDUAL] = elements[i]
                elements[i] = finished(plan.w, accumulators[first + i], given)
        ptx.stmatrix(pointer, [packed[i] for i in range(4)])

    def _byte(self, pair: Expr) -> Expr:
        """Byte of shared memory that a lane names to ldmatrix and stmatrix (see the picture)."""
        lane = self.block.lane
        row_bytes = self.plan.piece * self.plan.operand.bytes
        row = lane // 32 * 16 + lane % 16
        chunk = wgmma.swizzled(row, pair * 2 + lane % 32 // 16, row_bytes)
        buffer = self.plan.memory["pieces"].at(self.block.group, self.buffer.value)
        return buffer + (row * row_bytes + chunk * wgmma.CHUNK_BYTES)
