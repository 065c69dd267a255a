"""What passes share that read a graph binding by binding. Not a pass itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax


@dataclass(frozen=True)
class Dataflow:
    """The bindings of ``main``, in order. What they read are variables and constants."""

    values: dict[relax.Var, relax.Expr]
    #: Who reads a variable: the variables bound to what does, in order, each once.
    readers: dict[relax.Var, list[relax.Var]]
    #: Variables that the network gives.
    outputs: frozenset[relax.Var]
    _order: dict[relax.Var, int]

    @classmethod
    def of(cls, mod: tvm.IRModule) -> Dataflow:
        values: dict[relax.Var, relax.Expr] = {}
        readers: dict[relax.Var, list[relax.Var]] = defaultdict(list)
        for binding in bindings(mod):
            values[binding.var] = binding.value
            for used in relax.analysis.free_vars(binding.value):
                readers[used].append(binding.var)
        outputs = frozenset(relax.analysis.free_vars(mod["main"].body.body))
        return cls(values, readers, outputs, {var: i for i, var in enumerate(values)})

    def position(self, var: relax.Var) -> int:
        """Where in the order of the bindings it is computed."""
        return self._order[var]

    def op(self, var: relax.Var) -> str:
        """The operator that gives it, such as ``relax.add``; empty for what no call gives."""
        return op_name(self.values.get(var))

    def calls(self, op: str) -> Iterator[tuple[relax.Var, relax.Call]]:
        for var, value in self.values.items():
            if self.op(var) == op:
                yield var, value

    def sole_reader(self, var: relax.Var) -> relax.Var | None:
        """The one variable computed from it, if there is just one and the network does not
        give it."""
        readers = self.readers[var]
        return readers[0] if len(readers) == 1 and var not in self.outputs else None


def bindings(mod: tvm.IRModule) -> list[relax.VarBinding]:
    """All bindings of `main`, in order."""
    return [binding for block in mod["main"].body.blocks for binding in block.bindings]


def with_bindings(
    mod: tvm.IRModule, new: Sequence[relax.VarBinding], output: relax.Expr
) -> tvm.IRModule:
    """`mod`, whose `main` has these bindings instead and gives `output`."""
    main = mod["main"]
    body = relax.SeqExpr([relax.DataflowBlock(list(new))], output)
    function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs, main.span)
    mod = mod.clone()
    mod.update_func(mod.get_global_var("main"), function)
    return mod


def op_name(value: relax.Expr | None) -> str:
    """Of a call of an operator, such as ``relax.add``; else empty."""
    return getattr(value.op, "name", "") if isinstance(value, relax.Call) else ""


def is_constant(value: relax.Expr) -> bool:
    return isinstance(value, tvm.ir.GenericConst)


def array(value: relax.Expr) -> NDArray[Any] | None:
    """A copy of the numbers of a constant tensor; None of anything else."""
    return value.value.numpy() if is_constant(value) else None


def shape(value: relax.Expr) -> tuple[int, ...]:
    """Of a tensor, whose dimensions all are numbers."""
    return tuple(int(size) for size in value.ty.shape)


def dtype(value: relax.Expr) -> str:
    """Of a tensor, such as ``float32``."""
    return str(value.ty.dtype)


def element_bytes(dtype: str) -> int:
    """Size of an element of any dtype that TVM knows, bools too."""
    return -(-tvm.DataType(dtype).bits // 8)


def uses(mod: tvm.IRModule) -> Counter[relax.Var]:
    """How often each variable is read: by bindings, and by the network's output."""
    read: Counter[relax.Var] = Counter()
    for value in (*(binding.value for binding in bindings(mod)), mod["main"].body.body):
        read.update(_variables(value))
    return read


def _variables(value: relax.Expr) -> list[relax.Var]:
    """The variables that one binding reads, as often as it does."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Call):
        return [found for arg in value.args for found in _variables(arg)]
    if isinstance(value, relax.Tuple):
        return [found for field in value.fields for found in _variables(field)]
    return _variables(value.tuple_value) if isinstance(value, relax.TupleGetItem) else []


def along(values: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """(C,) as (1, ..., C, ..., 1) of `rank` dimensions, C in the place of `axis`."""
    return np.reshape(values, [-1 if at == axis else 1 for at in range(rank)])
