"""A function of the graph as lookups: what a variable is bound to, and who reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

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
        for block in mod["main"].body.blocks:
            for binding in block.bindings:
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
        value = self.values.get(var)
        return getattr(value.op, "name", "") if isinstance(value, relax.Call) else ""

    def calls(self, op: str) -> Iterator[tuple[relax.Var, relax.Call]]:
        for var, value in self.values.items():
            if self.op(var) == op:
                yield var, value

    def sole_reader(self, var: relax.Var) -> relax.Var | None:
        """The one variable computed from it, if there is just one and the network does not
        give it."""
        readers = self.readers[var]
        return readers[0] if len(readers) == 1 and var not in self.outputs else None


def shape(value: relax.Expr) -> tuple[int, ...]:
    return tuple(int(size) for size in value.ty.shape)


def constant(value: relax.Expr) -> NDArray[np.float64] | None:
    """The array of a constant; None for what is computed."""
    if not isinstance(value, tvm.ir.GenericConst):
        return None
    return np.asarray(value.value.numpy())
