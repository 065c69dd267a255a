"""Convert inputs and outputs to the dtype and layout that the build was asked for.

Before:  main(x: float32 NCHW): ...; return y
After:   main(x': float16 NHWC): x = astype(permute_dims(x', (0, 3, 1, 2)), float32); ...;
         return astype(permute_dims(y, (0, 2, 3, 1)), float16)
Requires: the graph as imported, one spec for each of its inputs and outputs, in order
Formula: the model's function of the converted inputs, its results converted. If a convolution
         reads the input or writes the output, these conversions cancel those of ConvertLayout and
         `lower_convs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from tvmconv.passes import graph
from tvmconv.runtime.io_form import TO_NCHW, TO_NHWC
from tvmconv.specs import TensorSpec


def io_form(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> tvm.transform.Pass:
    """Returns the pass that gives `main` these inputs and outputs."""

    @tvm.transform.module_pass(opt_level=0, name="io_form")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return _with_form(mod, inputs, outputs)

    return run


def _with_form(
    mod: tvm.IRModule, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tvm.IRModule:
    main, body = mod["main"], _Body("io")
    params = []
    for old, spec in zip(main.params, inputs, strict=True):
        new = old
        if (graph.shape(old), graph.dtype(old)) != (spec.shape, spec.dtype):
            new = relax.Var(old.name, relax.TensorType(spec.shape, spec.dtype))
            value = body.permuted(new, TO_NCHW) if spec.layout == "NHWC" else new
            body.bindings.append(relax.VarBinding(old, body.cast(value, graph.dtype(old))))
        params.append(new)
    body.bindings += graph.bindings(mod)
    given = []
    for value, spec in zip(_given(mod), outputs, strict=True):
        value = body.permuted(value, TO_NHWC) if spec.layout == "NHWC" else value
        given.append(body.cast(value, spec.dtype))
    result = body.bind(given[0] if len(given) == 1 else relax.Tuple(given), kind=relax.Var)
    block = relax.DataflowBlock(body.bindings)
    function = relax.Function(
        params, relax.SeqExpr([block], result), result.ty, main.is_pure, main.attrs, main.span
    )
    mod = mod.clone()
    mod.update_func(mod.get_global_var("main"), function)
    return mod


def _given(mod: tvm.IRModule) -> list[relax.Expr]:
    """The outputs of the network, one by one."""
    result = mod["main"].body.body
    bound = {binding.var: binding.value for binding in graph.bindings(mod)}
    value = bound.get(result, result)
    return list(value.fields) if isinstance(value, relax.Tuple) else [result]


class _Body(graph.Body):
    """The new `main`, with what converts."""

    def permuted(self, value: relax.Expr, axes: tuple[int, ...]) -> relax.Expr:
        return self.bind(relax.op.permute_dims(value, axes))

    def cast(self, value: relax.Expr, dtype: str) -> relax.Expr:
        """Casts `value` to `dtype`, unless it has it."""
        if graph.dtype(value) == dtype:
            return value
        return self.bind(relax.op.astype(value, dtype))
