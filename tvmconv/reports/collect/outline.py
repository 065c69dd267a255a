"""TVM's kernels in a network, besides those of convolutions, and the variables of each.

Found by the passes that fuse TVM's kernels, run on the graph with its convolutions outlined. It
schedules no kernels and packs no weights, and takes hundredths of a second.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from schedules.conv.precision import Precision
from schedules.machine.cost import Machine, memory_cost
from tvmconv.passes import pipeline
from tvmconv.passes.graph import bindings, element_bytes, is_constant, op_name
from tvmconv.passes.kernels.lower_convs import outline_convs
from tvmconv.passes.plan.plan import Plan
from tvmconv.passes.products.plan_products import ProductPlan
from tvmconv.reports.data.build import KernelReport


@dataclass(frozen=True)
class OutlinedKernel:
    """One kernel of TVM's."""

    #: Name in the code.
    name: str
    #: Variables of the planned graph that it computes; none if it is a copy that `lower_convs`
    #: added.
    variables: tuple[relax.Var, ...]
    #: Every operand and result once.
    moved_bytes: int
    #: Shape and dtype of the tensors that it reads, without constants, and of those that it writes.
    read: tuple[tuple[tuple[int, ...], str], ...] = ()
    written: tuple[tuple[tuple[int, ...], str], ...] = ()


def outline(
    mod: tvm.IRModule,
    plan: Plan,
    products: ProductPlan,
    target: tvm.target.Target,
    precision: Precision,
) -> list[OutlinedKernel]:
    """Returns the kernels in the order in which they run.

    mod: its regions planned. precision: as in `lower_convs`.
    """
    lowered, stand_ins = outline_convs(mod, plan, products, precision)
    # A variable is bound to a mere cast if a narrow variable has its value before.
    written = {one.place.buffer for one in plan.values()}
    itself = {binding.var for binding in bindings(mod)} - written - set(stand_ins.values())
    copies, pools, *others = pipeline.fuse_passes()
    with target:
        lowered = copies(lowered)
        pooled = pools(lowered)
        legal = others[0](pooled)
        fused = pipeline.run(legal, others[1:], "outline")
        final = pipeline.run(fused, pipeline.kernel_passes(), "outline")
    inside_pools = _groups(bindings(lowered), pooled)
    same = _legalised(inside_pools, legal)
    members = {
        var: [old for one in group for old in same.get(one, ())]
        for var, group in _groups(bindings(legal), fused).items()
    }
    output = members.get(fused["main"].body.body, [])  # whose variable has changed by now
    found = []
    for binding in bindings(final):
        if (name := _kernel(binding.value)) is not None:
            group = members.get(binding.var, output)
            computed = [stand_ins.get(var, var if var in itself else None) for var in group]
            variables = tuple(var for var in computed if var is not None)
            operands = list(binding.value.args[1].fields)
            moved = sum(map(_bytes, (*operands, binding.value)))
            read = [ty for one in operands if not is_constant(one) for ty in _types(one)]
            found.append(
                OutlinedKernel(name, variables, moved, _told(read), _told(_types(binding.value)))
            )
    return found


def kernel_reports(
    kernels: Sequence[OutlinedKernel],
    nodes: Mapping[relax.Var, str],
    machine: Machine | None,
) -> tuple[KernelReport, ...]:
    """Returns a report for each kernel. nodes: ONNX nodes by their result's variable."""
    return tuple(
        KernelReport(
            kernel.name,
            tuple(dict.fromkeys(nodes[var] for var in kernel.variables if var in nodes)),
            kernel.moved_bytes,
            memory_cost(kernel.moved_bytes, machine).us if machine is not None else 0.0,
        )
        for kernel in kernels
    )


def _legalised(
    before: Mapping[relax.Var, list[relax.Var]], legal: tvm.IRModule
) -> dict[relax.Var, list[relax.Var]]:
    """Returns what each binding of `legal` computes of `before`, the same by binding, in order.

    An operator may become several bindings: each computes what the last of them is bound to, which
    alone keeps the variable.
    """
    found: dict[relax.Var, list[relax.Var]] = {}
    parts: list[relax.Var] = []
    for binding in bindings(legal):
        parts.append(binding.var)
        if binding.var in before:
            found.update(dict.fromkeys(parts, before[binding.var]))
            parts = []
    return found


def _groups(
    before: Sequence[relax.VarBinding], after: tvm.IRModule
) -> dict[relax.Var, list[relax.Var]]:
    """Returns the variables of `before` that each binding of `after` computes.

    `after` has some of them in functions of its own. A variable is known by its computation, the
    same operator of the same variables, as passes rename variables and merge equal functions.
    """
    waiting: dict[Any, deque[relax.Var]] = defaultdict(deque)
    for binding in before:
        waiting[_key(binding.value, {})].append(binding.var)
    was: dict[relax.Var, Any] = {}
    groups: dict[relax.Var, list[relax.Var]] = {}

    def bind(binding: relax.VarBinding, known: dict[relax.Var, Any]) -> list[relax.Var]:
        """Notes and returns the old variable, or nothing if there is no match."""
        value = binding.value
        if isinstance(value, relax.TupleGetItem) and isinstance(known.get(value.tuple_value), list):
            known[binding.var] = known[value.tuple_value][value.index]
            return []
        matches = waiting[_key(value, known)]
        if not matches:
            return []
        known[binding.var] = matches.popleft()
        return [known[binding.var]]

    for binding in bindings(after):
        function = _function(binding.value, after)
        if function is None or waiting[_key(binding.value, was)]:
            groups[binding.var] = bind(binding, was)
            continue
        inner = {
            param: _key(arg, was)
            for param, arg in zip(function.params, binding.value.args, strict=True)
        }
        group = [one for block in function.body.blocks for one in block.bindings]
        groups[binding.var] = [old for one in group for old in bind(one, inner)]
        result = function.body.body
        was[binding.var] = (
            [inner.get(field, field) for field in result.fields]
            if isinstance(result, relax.Tuple)
            else inner.get(result, result)
        )
    return groups


def _key(value: relax.Expr, known: dict[relax.Var, Any]) -> Any:
    """Returns the key of a computation: operator, operands and type.

    known: old variables of operands.
    """
    if isinstance(value, relax.Var):
        return known.get(value, value)
    if isinstance(value, relax.Tuple):
        return ("tuple", *(_key(field, known) for field in value.fields))
    if isinstance(value, relax.TupleGetItem):
        return ("item", _key(value.tuple_value, known), value.index)
    if isinstance(value, relax.Call):
        name = getattr(value.op, "name", "") or getattr(value.op, "name_hint", "")
        return (name, *(_key(arg, known) for arg in value.args), str(value.ty))
    # Constants only by their type, as they are large.
    return str(value.ty) if isinstance(value, tvm.ir.GenericConst) else str(value)


def _function(value: relax.Expr, mod: tvm.IRModule) -> relax.Function | None:
    """Returns the group that a binding calls, or None."""
    called = value.op if isinstance(value, relax.Call) else None
    function = mod[called] if isinstance(called, tvm.ir.GlobalVar) else None
    return function if isinstance(function, relax.Function) else None


def _kernel(value: relax.Expr) -> str | None:
    """Returns the name of TVM's kernel that a binding calls, or None."""
    return value.args[0].name_hint if op_name(value) == "relax.call_tir" else None


def _bytes(value: relax.Expr) -> int:
    """Returns the bytes of a tensor, or of all tensors of a tuple."""
    return sum(math.prod(sizes) * element_bytes(dtype) for sizes, dtype in _told(_types(value)))


def _types(value: relax.Expr) -> list[relax.TensorType]:
    """Returns the type of a tensor, or those of all tensors of a tuple."""
    return list(value.ty.fields) if isinstance(value.ty, relax.TupleType) else [value.ty]


def _told(types: Sequence[relax.TensorType]) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Returns shape and dtype of each."""
    return tuple((tuple(int(size) for size in ty.shape), str(ty.dtype)) for ty in types)
