"""Checks a memory plan by an abstract run, independently of how the plan was made.

A wrong plan corrupts activations silently, so every build is checked.
"""

from __future__ import annotations

from math import prod
from typing import Any, TypeAlias

import tvm
import tvm_ffi
from tvm import relax, tirx

#: Calls that read and write no byte of their arguments.
RENAMES = ("relax.reshape", "relax.memory.ensure_zero_offset")

#: The allocations that an expression may refer to; for a tuple, a list for each field.
Meaning: TypeAlias = "set[relax.Var] | list[Meaning]"

#: Storage, begin and end in bytes of a tensor that shares its storage with others.
Span = tuple[relax.Var, int, int]


def check_memory(mod: tvm.IRModule, func: relax.Function, alignment: int) -> None:
    """Runs `func` with owners for bytes: a tensor takes over its bytes at the first kernel that
    gets it, and must still own all of them at every later kernel that gets it.

    Raises ``AssertionError`` for a tensor that has lost bytes to another, exceeds its storage, is
    not aligned to `alignment` bytes, or is an output in a shared storage.
    """
    run = _Run(mod, alignment)
    for block in func.body.blocks:
        for binding in block.bindings:
            run.stands_for[binding.var] = run.result(binding.var, binding.value)
    for tensor in _all(run.meaning(func.body.body)):
        assert tensor not in run.spans, f"output {tensor.name} is in shared memory"


class _Run:
    def __init__(self, mod: tvm.IRModule, alignment: int) -> None:
        self.mod = mod
        self.alignment = alignment
        self.stands_for: dict[relax.Var, Meaning] = {}
        self.storage_bytes: dict[relax.Var, int] = {}
        self.spans: dict[relax.Var, Span] = {}
        #: Tensors that own their bytes now, and those that have lost some.
        self.owners: set[relax.Var] = set()
        self.lost: dict[relax.Var, relax.Var] = {}

    def result(self, var: relax.Var, value: Any) -> Meaning:
        """The allocations that `var` refers to after `value` is computed."""
        op = getattr(getattr(value, "op", None), "name", "")
        if op == "relax.memory.alloc_storage":
            self.storage_bytes[var] = int(value.args[0].values[0])
            return set()
        if op == "relax.builtin.alloc_tensor":
            return {var}
        if op == "relax.memory.alloc_tensor":
            self.spans[var] = self._span(var, value)
            return {var}
        meant = self.meaning(value)
        if isinstance(value, relax.Call) and op not in RENAMES:
            self._use(_all(meant) & self.spans.keys())
        is_kernel = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar)
        if is_kernel and isinstance(self.mod[value.op], tirx.PrimFunc):
            return set()
        return meant

    def meaning(self, expr: Any) -> Meaning:
        if isinstance(expr, relax.Var):
            return self.stands_for.get(expr, set())
        if isinstance(expr, relax.Tuple):
            return [self.meaning(field) for field in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            meant = self.meaning(expr.tuple_value)
            return meant[expr.index] if isinstance(meant, list) else meant
        # Any variable in another expression may be its result.
        found: set[relax.Var] = set()
        for var in relax.analysis.free_vars(expr):
            found |= _all(self.meaning(var))
        return found

    def _span(self, var: relax.Var, call: relax.Call) -> Span:
        assert tvm_ffi.structural_equal(var.ty, call.ty), f"{var.name} is allocated as {call.ty}"
        storage, offset = call.args[0], int(call.args[1])
        elements = prod(int(extent) for extent in call.ty.shape.values)
        end = offset + elements * ((tvm.DataType(str(call.ty.dtype)).bits + 7) // 8)
        name = f"{var.name}, bytes {offset} to {end} of {storage.name}"
        assert offset % self.alignment == 0, f"{name}: not aligned to {self.alignment}"
        assert 0 <= offset <= end <= self.storage_bytes[storage], f"{name}: past its end"
        return storage, offset, end

    def _use(self, given: set[relax.Var]) -> None:
        """Lets one kernel read and write these tensors, in any order."""
        for tensor in given - self.owners - self.lost.keys():
            self._take(tensor)
        for tensor in given & self.lost.keys():
            raise AssertionError(
                f"{tensor.name} is read after {self.lost[tensor].name} was written over it"
            )

    def _take(self, tensor: relax.Var) -> None:
        storage, start, end = self.spans[tensor]
        for other in list(self.owners):
            place, first, last = self.spans[other]
            if place.same_as(storage) and first < end and start < last:
                self.owners.remove(other)
                self.lost[other] = tensor
        self.owners.add(tensor)


def _all(meaning: Meaning) -> set[relax.Var]:
    return set().union(*map(_all, meaning)) if isinstance(meaning, list) else meaning
