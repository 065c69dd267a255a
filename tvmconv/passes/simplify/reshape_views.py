"""Replace transposes that together leave every element where it is by one reshape.

Before:  a = permute_dims(x, (0, 3, 1, 2)); b = reshape(a, (n, c, h * w)); y = permute_dims(b,
         (0, 2, 1))                                                               # x: NHWC
After:   y = reshape(x, (n, h * w, c))
Requires: after `cancel_transposes`, which knows transposes without a reshape between them
Formula: `tvmconv.passes.views`: y, as a view of x, has the strides of a whole tensor
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from tvmconv.passes import graph
from tvmconv.passes.views import MOVES, traced


def reshape_views() -> tvm.transform.Pass:
    """Returns the pass."""

    @tvm.transform.module_pass(opt_level=0, name="reshape_views")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        flow = graph.Dataflow.of(mod)
        body = graph.Body("view")
        for binding in graph.bindings(mod):
            var, value = binding.var, binding.value
            if flow.op(var) in MOVES:
                found = traced(var, flow)
                source = found.source
                known = any(source.same_as(one) for one in (var, value.args[0]))
                if found.scale == 1 and not known and found.view.whole:
                    value = relax.op.reshape(source, graph.shape(var))
            body.bindings.append(relax.VarBinding(var, value))
        return graph.with_bindings(mod, body.bindings, mod["main"].body.body)

    tidy = [relax.transform.Normalize(), relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential([run, *tidy], name="reshape_views")
