"""Reading a Relax graph binding by binding, for passes."""

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
    #: For a variable, the variables whose bindings read it, in order, each once.
    readers: dict[relax.Var, list[relax.Var]]
    #: Variables that are outputs of the network.
    outputs: frozenset[relax.Var]
    _order: dict[relax.Var, int]

    @classmethod
    def of(cls, mod: tvm.IRModule) -> Dataflow:
        """Reads the bindings of a module's ``main``."""
        values: dict[relax.Var, relax.Expr] = {}
        readers: dict[relax.Var, list[relax.Var]] = defaultdict(list)
        for binding in bindings(mod):
            values[binding.var] = binding.value
            for used in relax.analysis.free_vars(binding.value):
                readers[used].append(binding.var)
        outputs = frozenset(relax.analysis.free_vars(mod["main"].body.body))
        return cls(values, readers, outputs, {var: i for i, var in enumerate(values)})

    def position(self, var: relax.Var) -> int:
        """Index of the binding that computes a variable."""
        return self._order[var]

    def op(self, var: relax.Var) -> str:
        """The operator that computes a variable, such as ``relax.add``; empty if no call does."""
        return op_name(self.values.get(var))

    def calls(self, op: str) -> Iterator[tuple[relax.Var, relax.Call]]:
        """Every call of an operator, with the variable that it is bound to, in order."""
        for var, value in self.values.items():
            if self.op(var) == op:
                yield var, value

    def sole_reader(self, var: relax.Var) -> relax.Var | None:
        """The only variable computed from `var`; None if there are others or it is an output."""
        readers = self.readers[var]
        return readers[0] if len(readers) == 1 and var not in self.outputs else None


def bindings(mod: tvm.IRModule) -> list[relax.VarBinding]:
    """All bindings of `main`, in order."""
    return [binding for block in mod["main"].body.blocks for binding in block.bindings]


def with_bindings(
    mod: tvm.IRModule, new: Sequence[relax.VarBinding], output: relax.Expr
) -> tvm.IRModule:
    """Replaces the bindings and the result of `main`."""
    main = mod["main"]
    body = relax.SeqExpr([relax.DataflowBlock(list(new))], output)
    function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs, main.span)
    mod = mod.clone()
    mod.update_func(mod.get_global_var("main"), function)
    return mod


class Body:
    """Collects the bindings of a new `main`. name: of the variables that it makes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bindings: list[relax.VarBinding] = []
        self._normalize = relax.BlockBuilder().normalize

    def bind(
        self,
        value: relax.Expr,
        var: relax.Var | None = None,
        kind: type[relax.Var] = relax.DataflowVar,
    ) -> relax.Var:
        """Binds a value to `var`, or to a new variable of that kind, and returns the variable."""
        value = self._normalize(value)
        var = kind(self.name, value.ty) if var is None else var
        self.bindings.append(relax.VarBinding(var, value))
        return var


def op_name(value: relax.Expr | None) -> str:
    """Name of the operator that is called, such as ``relax.add``; else empty."""
    return getattr(value.op, "name", "") if isinstance(value, relax.Call) else ""


def is_constant(value: relax.Expr) -> bool:
    """True for a constant tensor."""
    return isinstance(value, tvm.ir.GenericConst)


def array(value: relax.Expr) -> NDArray[Any] | None:
    """A copy of the values of a constant tensor; None for anything else."""
    return value.value.numpy() if is_constant(value) else None


def shape(value: relax.Expr) -> tuple[int, ...]:
    """Shape of a tensor whose dimensions are all numbers."""
    return tuple(int(size) for size in value.ty.shape)


def dtype(value: relax.Expr) -> str:
    """Element type of a tensor, such as ``float32``."""
    return str(value.ty.dtype)


def element_bytes(dtype: str) -> int:
    """Size of an element of any dtype that TVM knows, bools too."""
    return -(-tvm.DataType(dtype).bits // 8)


def uses(mod: tvm.IRModule) -> Counter[relax.Var]:
    """Counts the reads of each variable, by bindings and by the network's output."""
    read: Counter[relax.Var] = Counter()
    for value in (*(binding.value for binding in bindings(mod)), mod["main"].body.body):
        read.update(_variables(value))
    return read


def _variables(value: relax.Expr) -> list[relax.Var]:
    """The variables that one binding reads, repeated if it reads them several times."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Call):
        return [found for arg in value.args for found in _variables(arg)]
    if isinstance(value, relax.Tuple):
        return [found for field in value.fields for found in _variables(field)]
    return _variables(value.tuple_value) if isinstance(value, relax.TupleGetItem) else []


def along(values: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """Reshapes (C,) to `rank` dimensions, all 1 except `axis`, which is C."""
    return np.reshape(values, [-1 if at == axis else 1 for at in range(rank)])
