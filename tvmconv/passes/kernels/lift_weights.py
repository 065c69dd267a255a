"""Turn weights from constants of the code into parameters.

Before:  main(x): y = call_tir(conv, (x, constant))
After:   main(x, weight_0): y = call_tir(conv, (x, weight_0)), and weight_0's array beside it
Requires: nothing; constants under 128 bytes stay where they are
Formula: the identity. Code and weights are then stored separately, and equal weights once, also
         across the modules of several batches.
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


class WeightStore:
    """Weights of one or several modules, equal arrays once."""

    def __init__(self) -> None:
        self.arrays: list[NDArray[Any]] = []
        self._numbers: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def add(self, array: NDArray[Any]) -> int:
        """Returns the index in `arrays` of an equal array, which is added if there is none."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.name, array.shape, hashlib.sha256(array.view(np.uint8).data).digest())
        if key not in self._numbers:
            self._numbers[key] = len(self.arrays)
            self.arrays.append(array)
        return self._numbers[key]


@mutator
class _Lift(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, store: WeightStore) -> None:
        super().__init__(mod)
        self.store = store
        self.lifted: dict[int, relax.Var] = {}

    def visit_generic_const_(self, constant: Any) -> relax.Expr:
        array = constant.value.numpy() if isinstance(constant.ty, relax.TensorType) else None
        if array is None or array.nbytes < SMALL_BYTES:
            return constant
        number = self.store.add(array)
        if number not in self.lifted:
            self.lifted[number] = relax.Var(f"weight_{len(self.lifted)}", constant.ty)
        return self.lifted[number]


def lift_weights(mod: tvm.IRModule, store: WeightStore) -> tuple[tvm.IRModule, tuple[int, ...]]:
    """Returns the module, and the indices in `store` of the parameters after its inputs, in order.

    The attribute ``num_input`` still counts inputs only: it tells RewriteCUDAGraph that the
    parameters after them never move.
    """
    lift = _Lift(mod, store)
    main = mod["main"]
    body = lift.visit_expr(main.body)
    lifted = relax.Function(
        [*main.params, *lift.lifted.values()],
        body,
        main.ret_ty,
        main.is_pure,
        main.attrs,
        main.span,
    )
    mod = mod.clone()
    mod.update_func(mod.get_global_var("main"), lifted)
    return mod, tuple(lift.lifted)
