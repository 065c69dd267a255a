"""Take the weights out of the code.

Before:  main(x): y = call_tir(conv, (x, constant))
After:   main(x, weight_0): y = call_tir(conv, (x, weight_0)), and weight_0's array beside it
Requires: nothing; constants under 128 bytes stay where they are
Formula: the identity. Code and weights then travel apart, and equal weights are kept once.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

SMALL_BYTES = 128


@mutator
class _Lift(PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.lifted: dict[tuple[str, tuple[int, ...], bytes], tuple[relax.Var, NDArray[Any]]] = {}

    def visit_generic_const_(self, constant: Any) -> relax.Expr:
        array = constant.value.numpy() if isinstance(constant.ty, relax.TensorType) else None
        if array is None or array.nbytes < SMALL_BYTES:
            return constant
        key = (array.dtype.name, array.shape, hashlib.sha256(array).digest())
        if key not in self.lifted:
            self.lifted[key] = (relax.Var(f"weight_{len(self.lifted)}", constant.ty), array)
        return self.lifted[key][0]


def lift_weights(mod: tvm.IRModule) -> tuple[tvm.IRModule, list[NDArray[Any]]]:
    """The module, and the arrays that `main` now takes after its inputs, in order.

    ``num_input`` in the function's attributes still counts inputs alone, which tells
    RewriteCUDAGraph that what follows never moves.
    """
    lift = _Lift(mod)
    main = mod["main"]
    body = lift.visit_expr(main.body)
    variables = [variable for variable, _ in lift.lifted.values()]
    lifted = relax.Function(
        [*main.params, *variables], body, main.ret_ty, main.is_pure, main.attrs, main.span
    )
    mod = mod.clone()
    mod.update_func(mod.get_global_var("main"), lifted)
    return mod, [np.ascontiguousarray(array) for _, array in lift.lifted.values()]
