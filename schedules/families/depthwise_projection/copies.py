"""The copies of a chunk of channels to shared memory: pixels, depthwise filters, weights."""

from __future__ import annotations

from contextlib import AbstractContextManager

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.conv.signature import PROLOGUE, WEIGHT, X
from schedules.families.depthwise_projection.block import Block
from schedules.families.depthwise_projection.prologue import VECTOR
from schedules.threads import ptx
from schedules.threads.control import Index, shared_out


class Copies:
    """Fills the stages of a block; with zeros where there are no pixels or channels."""

    def __init__(self, block: Block) -> None:
        self.block, self.plan = block, block.plan
        self.x, self.filters, self.weight = (block.operands[name] for name in (X, PROLOGUE, WEIGHT))
        self.to = {name: block.shared.array(name) for name in ("pixels", "filters", "weights")}

    def copy(self, chunk: Index, stage: Index) -> None:
        """Starts the copies of a chunk into a stage."""
        self._copy_pixels(chunk, stage)
        self._copy_filters(chunk, stage)
        self._copy_weights(chunk, stage)

    def _copy_pixels(self, chunk: Index, stage: Index) -> None:
        plan, first = self.plan, self.plan.prologue
        n, p, q = self.block.at()
        rows, columns = plan.patch
        channels = plan.config.chunk * plan.depth
        size = plan.pixel_vector
        vectors = channels // size
        with self._shared_out(rows * columns * vectors) as number:
            vector, pixel = number % vectors, number // vectors
            row, column = pixel // columns, pixel % columns
            h = p * first.stride[0] - first.padding[0] + row
            v = q * first.stride[1] - first.padding[1] + column
            c = chunk * channels + vector * size
            inside = tirx.all(h >= 0, h < first.h, v >= 0, v < first.w, c < first.c)
            to = (stage, row, self.block.position(column), vector * size)
            self._copy("pixels", to, self.x[n, h, v, c], inside, size * plan.operand.bytes)

    def _copy_filters(self, chunk: Index, stage: Index) -> None:
        plan = self.plan
        rows, length = plan.filter_rows, plan.filter_elements
        with self._shared_out(rows * length // plan.vector) as number:
            at = number * plan.vector
            row, element = at // length, at % length
            source = self.filters[chunk * rows + row, element]
            inside = chunk * rows + row < plan.prologue_shape[0]
            self._copy("filters", (stage, row, element), source, inside)

    def _copy_weights(self, chunk: Index, stage: Index) -> None:
        plan = self.plan
        steps, length = plan.config.chunk, plan.step_elements
        with self._shared_out(steps * length // plan.vector) as number:
            at = number * plan.vector
            step, element = at // length, at % length
            source = self.weight[chunk * steps + step, self.block.part * length + element]
            inside = chunk * steps + step < plan.steps
            self._copy("weights", (stage, step, element), source, inside)

    def _shared_out(self, count: int) -> AbstractContextManager[Expr]:
        return shared_out(count, self.plan.config.threads, self.block.thread.number)

    def _copy(
        self, part: str, to: tuple[Index, ...], source: Expr, inside: Expr, bytes: int = VECTOR
    ) -> None:
        """Copies one vector."""
        count = T.Select(inside, T.uint32(bytes), T.uint32(0))
        ptx.cp_async(self.to[part].pointer(*to), T.address_of(source), bytes, count=count)
