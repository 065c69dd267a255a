"""Add a second entry function for runs on a GPU whose tensors stay in place.

Before:  main(x, weight): arena = alloc_storage(bytes); ...; return y
After:   main, of which RewriteCUDAGraph captures all that depends on no input's place; and
         bound(x, weight): arena = alloc_storage(bytes); ...; return (y, all of arena)
Requires: memory planned
Formula: the identity. The results of `bound` keep all memory that the run writes. So a whole run
         can be captured, from the first kernel to the last, and replayed as long as they are kept.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from tvmconv.passes import graph

#: The function that is captured whole. It returns the outputs, then the arena if there is one.
BOUND = "bound"


def bindable() -> tvm.transform.Pass:
    """Returns the pass."""

    @tvm.transform.module_pass(opt_level=0, name="bindable")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        bound = _bound(mod)
        captured = relax.transform.RewriteCUDAGraph()(mod)
        captured[BOUND] = bound.with_attr("global_symbol", BOUND)
        return captured

    return run


def _bound(mod: tvm.IRModule) -> relax.Function:
    main = mod["main"]
    bindings = graph.bindings(mod)
    storages = [b for b in bindings if graph.op_name(b.value) == "relax.memory.alloc_storage"]
    normalize = relax.BlockBuilder(mod).normalize
    result = main.body.body
    bound = {binding.var: binding.value for binding in bindings}
    value = bound.get(result, result)
    fields = list(value.fields) if isinstance(value, relax.Tuple) else [result]
    new = []
    for storage in storages:
        size = storage.value.args[0]
        view = normalize(relax.op.memory.alloc_tensor(storage.var, 0, size, "uint8", 0))
        new.append(relax.VarBinding(relax.Var("arena_bytes", view.ty), view))
    given = normalize(relax.Tuple([*fields, *(binding.var for binding in new)]))
    output = relax.Var("kept", given.ty)
    new.append(relax.VarBinding(output, given))
    body = relax.SeqExpr([*main.body.blocks, relax.BindingBlock(new)], output)
    return relax.Function(main.params, body, given.ty, main.is_pure, main.attrs, main.span)
