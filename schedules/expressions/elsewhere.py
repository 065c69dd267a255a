"""Lets a function write its output to other places of another tensor, which tensor expressions
cannot express.

Before:  out[i, j] = value[...]                  out has exactly the elements that are computed
After:   new[place(i, j)] = value[...]           new is another tensor, perhaps a larger one
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import s_tir, tirx
from tvm.ir import Expr, Range

#: From an index of the old output to one of the new.
Place = Callable[[Sequence[Expr]], list[Expr]]


def written_to(function: tirx.PrimFunc, new: tirx.Buffer, place: Place) -> tirx.PrimFunc:
    """Returns an unscheduled function that writes `new` instead of its last parameter, its output
    as in `te.create_prim_func`."""
    *inputs, old = function.params
    body = _Elsewhere(old, new, place).visit(function.body)
    return tirx.PrimFunc([*inputs, new], body, function.ret_type, function.attrs)


class _Elsewhere:
    """Rebuilds the statements of an unscheduled function: loops around blocks that store."""

    def __init__(self, old: tirx.Buffer, new: tirx.Buffer, place: Place) -> None:
        self.old, self.new, self.place = old, new, place

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
            return tirx.BufferStore(self.new, node.value, self.place(node.indices))
        return node

    def _written(self, region: tirx.BufferRegion) -> tirx.BufferRegion:
        """Returns a written region where it lies in the new tensor. Each block writes one
        element."""
        if not region.source.same_as(self.old):
            return region
        index = self.place([one.min for one in region.region])
        ranges = [Range.from_min_extent(at, 1) for at in index]
        return tirx.BufferRegion(self.new, ranges)
