"""Lets a convolution write a part of a larger tensor.

Before:  out[n, p, q, k] = epilogue[...]        out has exactly the convolution's output
         (with several groups: out[n, p, q, g, k])
After:   out[n, rows(p), columns(q), position(k)] = epilogue[...]     out is the larger tensor
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.ir import Expr

from schedules.conv.workload import ConvWorkload
from schedules.expressions.elsewhere import written_to


def in_window(w: ConvWorkload, function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Returns an unscheduled function rewritten to write the workload's window.

    Its last parameter is its output, as in `te.create_prim_func`. Returned unchanged if it already
    writes the right buffer.
    """
    old = function.params[-1]
    if tuple(int(size) for size in old.shape) == w.buffer_shape and w.window is None:
        return function

    def place(index: Sequence[Expr]) -> list[Expr]:
        n, p, q, *group, k = index
        if group:
            k = group[0] * w.group_k + k
        if w.window is None:
            return [n, p, q, k]
        return [n, *w.window.pixel(p, q), w.window.position(k)]

    return written_to(function, tirx.decl_buffer(w.buffer_shape, w.precision.result, "out"), place)
