"""Fold transposes and reshapes of constants, which ConvertLayout leaves.

Before:  w = permute_dims(constant, (0, 2, 3, 1)); y = conv2d(x, w)
After:   y = conv2d(x, constant')
Requires: permute_dims or reshape of a constant
Formula: NumPy's transpose and reshape. Relax's FoldConstant gives the same but compiles a kernel
         for each constant, 6 seconds for a ResNet-18 where this takes milliseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvmconv.passes.graph import op_name


@mutator
class _Fold(PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        constant = call.args[0] if call.args else None
        if isinstance(constant, relax.Var):
            constant = self.lookup_binding(constant)
        if not isinstance(constant, tvm.ir.GenericConst):
            return call
        name = op_name(call)
        if name == "relax.permute_dims":
            axes = None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes]
            return _constant(np.transpose(constant.value.numpy(), axes))
        if name == "relax.reshape":
            return _constant(constant.value.numpy().reshape([int(d) for d in call.ty.shape]))
        return call


def _constant(array: Any) -> tvm.ir.GenericConst:
    return relax.const(np.ascontiguousarray(array))


def fold_layouts() -> tvm.transform.Pass:
    """Returns the pass."""

    @tvm.transform.module_pass(opt_level=0, name="fold_layouts")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        mod["main"] = _Fold(mod).visit_expr(mod["main"])
        return mod

    steps = [run, relax.transform.CanonicalizeBindings()]
    return tvm.transform.Sequential(steps, name="fold_layouts")
