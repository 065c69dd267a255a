"""A tensor as a view of the one whose elements it has: through transposes, reshapes and slices."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from schedules.products.view import View
from tvmconv.passes.graph import Dataflow, array, shape

#: Operators whose result has all elements of what they read, elsewhere.
MOVES = ("relax.permute_dims", "relax.reshape", "relax.squeeze", "relax.expand_dims")


@dataclass(frozen=True)
class Traced:
    """A tensor as ``scale * source``, seen through `view`.

    source: a variable or a constant. through: the variables between it and the tensor, and the
    tensor's own.
    """

    source: relax.Expr
    view: View
    scale: float = 1.0
    through: tuple[relax.Var, ...] = ()

    def with_view(self, view: View) -> Traced:
        """The same tensor, seen otherwise."""
        return replace(self, view=view)


def traced(value: relax.Expr, flow: Dataflow, ends: Collection[relax.Var] = ()) -> Traced:
    """Follows a tensor back to the one whose elements it has, as far as there is a view of it, and
    no further than to one of `ends`."""
    if isinstance(value, relax.Var) and value not in ends:
        found = _step(value, flow, ends)
        if found is not None:
            return replace(found, through=(*found.through, value))
    return Traced(value, View.of(shape(value)))


def _step(var: relax.Var, flow: Dataflow, ends: Collection[relax.Var]) -> Traced | None:
    """The tensor that one operator moves or scales; None for another operator."""
    value = flow.values.get(var)
    if value is None:
        return None
    if isinstance(value, relax.TupleGetItem):
        return _part(value, flow, ends)
    match flow.op(var):
        case "relax.permute_dims":
            inner = traced(value.args[0], flow, ends)
            axes = value.attrs.axes
            order = range(len(inner.view.shape))[::-1] if axes is None else map(int, axes)
            return inner.with_view(inner.view.permuted([axis % len(shape(var)) for axis in order]))
        case "relax.reshape" | "relax.squeeze" | "relax.expand_dims":
            inner = traced(value.args[0], flow, ends)
            view = inner.view.reshaped(shape(var))
            return None if view is None else inner.with_view(view)
        case "relax.strided_slice":
            return _slice(value, flow, ends)
        case "relax.multiply" | "relax.divide":
            factor = scalar_of(value)
            if factor is None:
                return None
            inner = traced(factor[0], flow, ends)
            same = shape(factor[0]) == shape(var)
            return replace(inner, scale=inner.scale * factor[1]) if same else None
    return None


def _part(item: relax.TupleGetItem, flow: Dataflow, ends: Collection[relax.Var]) -> Traced | None:
    """One of the parts of a split."""
    if not isinstance(item.tuple_value, relax.Var) or flow.op(item.tuple_value) != "relax.split":
        return None
    split = flow.values[item.tuple_value]
    inner = traced(split.args[0], flow, ends)
    axis = int(split.attrs.axis) % len(inner.view.shape)
    # All parts before it, and it, along the axis.
    sizes = [int(one.shape[axis]) for one in split.ty.fields]
    begin = sum(sizes[: item.index])
    return inner.with_view(inner.view.sliced(axis, begin, sizes[item.index]))


def _slice(call: relax.Call, flow: Dataflow, ends: Collection[relax.Var]) -> Traced | None:
    """A slice along constant indices."""
    x, axes, begin, _, *rest = call.args
    inner, wanted = traced(x, flow, ends), shape(call)
    view = inner.view
    steps = [int(one) for one in rest[0].fields] if rest else [1] * len(axes.fields)
    for axis, first, step in zip(axes.fields, begin.fields, steps, strict=True):
        at, start = int(axis) % len(view.shape), int(first)
        extent = view.shape[at]
        start = start + extent if start < 0 else start
        if step < 1 or not 0 <= start < extent:
            return None
        view = view.sliced(at, start, wanted[at], step)
    return inner.with_view(view) if view.shape == wanted else None


def scalar_of(call: relax.Call) -> tuple[relax.Expr, float] | None:
    """The tensor that a product or quotient scales, and by what; None where it is no number."""
    first, second = call.args
    constant = array(second)
    if constant is None and call.op.name == "relax.multiply":
        first, second, constant = second, first, array(first)
    if constant is None or constant.size != 1 or array(first) is not None:
        return None
    number = float(constant.reshape(()).astype(np.float64))
    if call.op.name == "relax.divide":
        number = 1 / number if number else float("inf")
    return (first, number) if np.isfinite(number) else None
