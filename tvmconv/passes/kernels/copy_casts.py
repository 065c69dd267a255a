"""Give each reader of a cast to fp32 a cast of its own, so that each fuses with one.

Before:  h = astype(x, float32); a = mean(h); b = multiply(h, s)
After:   h = astype(x, float32); a = mean(h); g = astype(x, float32); b = multiply(g, s)
Requires: x is narrower than the cast; readers that a cast is fused into: elementwise ones, and
          those of `fuse_casts.FURTHER`
Formula: the identity. One cast that two kernels read would be a kernel of its own, which writes
         all of x once more, and twice as wide.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from schedules.keep_nan import is_float
from tvmconv.passes import graph
from tvmconv.passes.kernels.fuse_casts import FURTHER
from tvmconv.passes.simplify.axis_orders import BINARY, UNARY

FUSED = frozenset((*UNARY, *BINARY, *FURTHER))


def copy_casts() -> tvm.transform.Pass:
    """Returns the pass."""

    @tvm.transform.module_pass(opt_level=0, name="copy_casts")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        read = graph.uses(mod)
        casts: dict[relax.Var, relax.Call] = {}
        body = graph.Body("cast")
        for binding in graph.bindings(mod):
            value = binding.value
            if graph.op_name(value) == "relax.astype" and read[binding.var] > 1 and _widens(value):
                casts[binding.var] = value
            if graph.op_name(value) in FUSED:
                args = [
                    body.bind(casts[arg]) if isinstance(arg, relax.Var) and arg in casts else arg
                    for arg in value.args
                ]
                value = relax.Call(value.op, args, value.attrs, value.ty_args)
            body.bindings.append(relax.VarBinding(binding.var, value))
        return graph.with_bindings(mod, body.bindings, mod["main"].body.body)

    tidy = [relax.transform.Normalize(), relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential([run, *tidy], name="copy_casts")


def _widens(cast: relax.Call) -> bool:
    """True for a cast of floats to wider ones."""
    before, after = graph.dtype(cast.args[0]), graph.dtype(cast)
    return (
        is_float(before)
        and is_float(after)
        and graph.element_bytes(before) < graph.element_bytes(after)
    )
