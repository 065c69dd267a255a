"""Give every activation a place in one arena, so that those never live at once share bytes.

Before:  a = alloc_tensor(...); conv(x, weight, a); b = alloc_tensor(...); conv(a, weight, b)
After:   arena = alloc_storage(bytes); a = alloc_tensor(arena, offset_a); conv(x, weight, a); ...
Requires: CallTIRRewrite; shapes that are numbers; functions without branches
Formula: the identity. A tensor is live from the first kernel that gets it to the last, under any
         name: a reshape, a tuple or a result computed in place is the tensor that it is made of.
         Outputs outlive the run and stay outside the arena.

`tvmconv.passes.memory.arena` chooses the offsets, `tvmconv.passes.memory.check` checks each plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import tvm
from tvm import relax, tirx

from tvmconv.passes.memory import arena
from tvmconv.passes.memory.check import check_memory

#: Alignment of offsets in bytes: TVM's on a CPU, cudaMalloc's on a GPU.
ALIGNMENT: Mapping[str, int] = {"llvm": 64, "cuda": 256}

_STORAGE = "relax.memory.alloc_storage"
_PLANNED = "relax.memory.alloc_tensor"
_UNPLANNED = "relax.builtin.alloc_tensor"
#: Calls whose result is their argument under another name.
_RENAMES = ("relax.reshape", "relax.memory.ensure_zero_offset")


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of activations: as planned, and the lower bound.

    Counts every tensor that one kernel passes to another: activations, fp16 copies, conversions of
    layout. Outputs are counted separately, since they belong to the caller. Not counted are inputs,
    weights and other constants, and the workspace of kernels.
    """

    #: Size of the arena.
    peak_bytes: int
    #: The most bytes live at once, in the order in which the network runs.
    bound_bytes: int
    #: Size of the network's outputs.
    output_bytes: int


@dataclass(frozen=True)
class Activation:
    """One tensor that a function allocates."""

    #: The variable of its allocation.
    var: relax.Var
    #: Its lifetime; steps are kernels, counted from 0.
    life: arena.Buffer
    is_output: bool
    is_planned: bool


def plan_memory(kind: str) -> tvm.transform.Pass:
    """Returns the pass for target kind ``"cuda"`` or ``"llvm"``."""
    alignment = ALIGNMENT[kind]

    @tvm.transform.module_pass(opt_level=0, name="plan_memory")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        planned = mod.clone()
        for name, func in mod.functions_items():
            if isinstance(func, relax.Function):
                planned.update_func(name, _place(mod, func, alignment))
                check_memory(planned, planned[name], alignment)
        return planned

    return run


def measure(mod: tvm.IRModule, name: str = "main") -> MemoryUse:
    """Memory of a function, after memory is planned and before it is lowered further."""
    func = mod[name]
    found = activations(mod, func)
    storages = sum(
        int(binding.value.args[0].values[0])
        for binding in _bindings(func)
        if _op_name(binding.value) == _STORAGE
    )
    inner = [one for one in found if not one.is_output]
    unplanned = sum(one.life.size for one in inner if not one.is_planned)
    bound = arena.lower_bound([one.life for one in inner])
    outputs = sum(one.life.size for one in found if one.is_output)
    return MemoryUse(storages + unplanned, bound, outputs)


# ---------------------------------------------------------------- lifetimes

#: The tensors, by number, that a variable refers to, or a tuple of these.
_Value: TypeAlias = "frozenset[int] | tuple[_Value, ...]"


def activations(mod: tvm.IRModule, func: relax.Function) -> list[Activation]:
    """Every tensor that `func` allocates, in order, planned or not."""
    walk = _Walk(mod)
    for binding in _bindings(func):
        walk.names[binding.var] = walk.visit(binding.value, binding.var)
    outputs = _flat(walk.value(func.body.body))
    for tensor in outputs:
        walk.touch(tensor)
    return [
        Activation(
            var,
            arena.Buffer(*walk.lives.get(tensor, (0, 0)), _bytes(var.ty)),
            tensor in outputs,
            is_planned,
        )
        for tensor, (var, is_planned) in enumerate(walk.allocated)
    ]


class _Walk:
    """Walks down a function and notes which tensors each kernel gets."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.names: dict[relax.Var, _Value] = {}
        self.allocated: list[tuple[relax.Var, bool]] = []
        self.lives: dict[int, tuple[int, int]] = {}
        self.step = 0

    def visit(self, expr: relax.Expr, var: relax.Var) -> _Value:
        """The tensors that `var` refers to once `expr` is bound to it."""
        name = _op_name(expr)
        if name in (_PLANNED, _UNPLANNED):
            self.allocated.append((var, name == _PLANNED))
            return frozenset({len(self.allocated) - 1})
        if not isinstance(expr, relax.Call) or name == _STORAGE:
            return self.value(expr)
        given = frozenset().union(*(_flat(self.value(arg)) for arg in expr.args))
        if name not in _RENAMES:
            for tensor in given:
                self.touch(tensor)
            self.step += 1
        # A kernel returns nothing; any other call may return any of its arguments.
        return frozenset() if _is_kernel(self.mod, expr) else given

    def value(self, expr: Any) -> _Value:
        if isinstance(expr, relax.Var):
            return self.names.get(expr, frozenset())
        if isinstance(expr, relax.Tuple):
            return tuple(self.value(field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            fields = self.value(expr.tuple_value)
            return fields[expr.index] if isinstance(fields, tuple) else fields
        assert not isinstance(expr, relax.If | relax.SeqExpr | relax.Function), expr
        return frozenset()

    def touch(self, tensor: int) -> None:
        first, _ = self.lives.get(tensor, (self.step, self.step))
        self.lives[tensor] = (first, self.step)


def _flat(value: _Value) -> frozenset[int]:
    if isinstance(value, tuple):
        return frozenset().union(*map(_flat, value))
    return value


def _bindings(func: relax.Function) -> Iterator[Any]:
    for block in func.body.blocks:
        yield from block.bindings


def _op_name(expr: Any) -> str:
    op = expr.op if isinstance(expr, relax.Call) else None
    return op.name if isinstance(op, tvm.ir.Op) else ""


def _is_kernel(mod: tvm.IRModule, call: relax.Call) -> bool:
    return isinstance(call.op, tvm.ir.GlobalVar) and isinstance(mod[call.op], tirx.PrimFunc)


def _bytes(ty: relax.TensorType) -> int:
    width = tvm.DataType(str(ty.dtype))
    return prod(int(extent) for extent in ty.shape.values) * -(-width.bits * width.lanes // 8)


# ---------------------------------------------------------------- the arena


def _place(mod: tvm.IRModule, func: relax.Function, alignment: int) -> relax.Function:
    """Puts every activation of `func` except its outputs into one storage."""
    inside = [one for one in activations(mod, func) if not one.is_output]
    if not inside:
        return func
    lives = [one.life for one in inside]
    offsets = arena.place(lives, alignment)
    normalize = relax.BlockBuilder(mod).normalize
    size = relax.ShapeExpr([arena.arena_bytes(lives, offsets)])
    storage = normalize(relax.op.memory.alloc_storage(size, 0, "global", "uint8"))
    storage_var = relax.Var("arena", storage.ty)
    allocated = {
        one.var: _allocation(storage_var, offset, one.var, normalize)
        for one, offset in zip(inside, offsets, strict=True)
    }
    blocks = [
        relax.BindingBlock([new for old in block.bindings for new in allocated.get(old.var, [old])])
        for block in func.body.blocks
    ]
    first = relax.BindingBlock([relax.VarBinding(storage_var, storage)])
    body = relax.SeqExpr([first, *blocks], func.body.body)
    return relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs, func.span)


def _allocation(
    storage: relax.Var, offset: int, var: relax.Var, normalize: Any
) -> list[relax.VarBinding]:
    """Binds `var` to a tensor of its type, `offset` bytes into `storage`."""
    tensor = normalize(
        relax.op.memory.alloc_tensor(storage, offset, var.ty.shape, str(var.ty.dtype), 0)
    )
    if offset == 0:
        return [relax.VarBinding(var, tensor)]
    # The tensor has a pointer to the storage and an offset. Kernels need a pointer to the first
    # element: on CPU and CUDA that is the sum, without a copy, if the offset is a multiple of 64.
    behind = relax.Var(f"{var.name}_at_{offset}", tensor.ty)
    moved = normalize(relax.op.memory.ensure_zero_offset(behind))
    return [relax.VarBinding(behind, tensor), relax.VarBinding(var, moved)]
