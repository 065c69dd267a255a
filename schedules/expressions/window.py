"""Lets a convolution write a part of a larger tensor, which tensor expressions cannot express.

Before:  out[n, p, q, k] = epilogue[...]        out has exactly the convolution's output
         (with several groups: out[n, p, q, g, k])
After:   out[n, rows(p), columns(q), position(k)] = epilogue[...]     out is the larger tensor
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.ir import Expr, Range

from schedules.conv.workload import ConvWorkload


def in_window(w: ConvWorkload, function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Returns an unscheduled function rewritten to write the workload's window.

    Its last parameter is its output, as in `te.create_prim_func`. Returned unchanged if it already
    writes the right buffer.
    """
    *inputs, old = function.params
    if tuple(int(size) for size in old.shape) == w.buffer_shape and w.window is None:
        return function
    new = tirx.decl_buffer(w.buffer_shape, w.precision.result, "out")
    body = _Window(w, old, new).visit(function.body)
    return tirx.PrimFunc([*inputs, new], body, function.ret_type, function.attrs)


class _Window:
    """Rebuilds the statements of an unscheduled function: loops around blocks that store."""

    def __init__(self, w: ConvWorkload, old: tirx.Buffer, new: tirx.Buffer) -> None:
        self.w, self.old, self.new = w, old, new

    def visit(self, node: tirx.Stmt) -> tirx.Stmt:
        if isinstance(node, tirx.SeqStmt):
            return tirx.SeqStmt([self.visit(one) for one in node])
        if isinstance(node, tirx.For):
            return tirx.For(
                node.loop_var, node.min, node.extent, node.kind, self.visit(node.body),
                node.thread_binding, node.annotations,
            )  # fmt: skip
        if isinstance(node, s_tir.SBlockRealize):
            return s_tir.SBlockRealize(node.iter_values, node.predicate, self.visit(node.block))
        if isinstance(node, s_tir.SBlock):
            return s_tir.SBlock(
                node.iter_vars, node.reads, [self._written(one) for one in node.writes],
                node.name_hint, self.visit(node.body), node.init, node.alloc_buffers,
                node.match_buffers, node.annotations,
            )  # fmt: skip
        if isinstance(node, tirx.BufferStore) and node.buffer.same_as(self.old):
            return tirx.BufferStore(self.new, node.value, self._index(node.indices))
        return node

    def _index(self, index: Sequence[Expr]) -> list[Expr]:
        n, p, q, *group, k = index
        if group:
            k = group[0] * self.w.group_k + k
        if self.w.window is None:
            return [n, p, q, k]
        return [n, *self.w.window.pixel(p, q), self.w.window.position(k)]

    def _written(self, region: tirx.BufferRegion) -> tirx.BufferRegion:
        """Returns a written region moved to the window. Each block writes one element."""
        if not region.source.same_as(self.old):
            return region
        index = self._index([one.min for one in region.region])
        ranges = [Range.from_min_extent(at, 1) for at in index]
        return tirx.BufferRegion(self.new, ranges)
