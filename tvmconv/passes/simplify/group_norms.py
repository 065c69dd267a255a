"""Make one operator of each norm of groups of channels.

Before:  r = reshape(x, (n, g, -1)); t = group_norm(r, scale, shift, num_groups=g)
         y = add(multiply(reshape(t, shape of x), scale'), shift')
After:   y = group_norm(x, scale * scale', shift * scale' + shift', num_groups=g)
Requires: constants, scale' and shift' of each channel or of all; groups that divide the channels;
          no other reader of what is between. As torch exports GroupNorm, and `onnx.group_norms`
          writes it; the reshapes alone as well, and arithmetic alone
Formula: the identity, in float64. ConvertLayout carries a layout across the norm, not across
         reshapes
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvmconv.passes import graph
from tvmconv.passes.graph import Dataflow, array, shape

NORM = "relax.nn.group_norm"


@dataclass(frozen=True)
class _Norm:
    """A norm of x in groups of channels, along axis 1. scale, shift: (C,). last: what it gives."""

    call: relax.Call
    x: relax.Expr
    groups: int
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    last: relax.Var

    @property
    def channels(self) -> int:
        return len(self.scale)


def group_norms() -> tvm.transform.Pass:
    """Returns the pass."""

    @tvm.transform.module_pass(opt_level=0, name="group_norms")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        flow = Dataflow.of(mod)
        norms = [_whole(var, call, flow) for var, call in flow.calls(NORM)]
        new = {norm.last: norm for norm in norms if norm is not None}
        bindings = [
            relax.VarBinding(one.var, _call(new[one.var])) if one.var in new else one
            for one in graph.bindings(mod)
        ]
        return graph.with_bindings(mod, bindings, mod["main"].body.body)

    tidy = [relax.transform.Normalize(), relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential([run, *tidy], name="group_norms")


def _call(norm: _Norm) -> relax.Expr:
    dtype, rank = graph.dtype(norm.x), len(shape(norm.x))
    factors = (relax.const(one.astype(dtype), dtype) for one in (norm.scale, norm.shift))
    pixels, epsilon = list(range(2, rank)), float(norm.call.attrs.epsilon)
    call = relax.op.nn.group_norm(norm.x, *factors, norm.groups, 1, pixels, epsilon)
    return relax.BlockBuilder().normalize(call)


def _whole(var: relax.Var, call: relax.Call, flow: Dataflow) -> _Norm | None:
    """The norm with all that belongs to it; None if that is itself alone."""
    factors = [array(one) for one in call.args[1:]]
    if int(call.attrs.channel_axis) != 1 or any(one is None for one in factors):
        return None
    scale, shift = (np.asarray(one, np.float64) for one in factors)
    norm = _Norm(call, call.args[0], int(call.attrs.num_groups), scale, shift, var)
    inner = norm.x
    if isinstance(inner, relax.Var) and flow.op(inner) == "relax.reshape":
        norm = _of_image(norm, flow.values[inner].args[0], flow) or norm
    norm = _with_arithmetic(norm, flow)
    if shape(norm.last) != shape(norm.x):
        norm = _shaped(norm, flow) or norm
    done = shape(norm.last) == shape(norm.x) and not norm.last.same_as(var)
    return norm if done else None


def _of_image(norm: _Norm, x: relax.Expr, flow: Dataflow) -> _Norm | None:
    """The norm of what is reshaped to one channel a group."""
    sizes, rows = shape(x), shape(norm.x)
    apart = norm.groups == norm.channels == rows[1]
    if not apart or len(sizes) < 3 or sizes[0] != rows[0] or sizes[1] % norm.groups:
        return None
    each = sizes[1] // norm.groups
    scale, shift = (np.repeat(one, each) for one in (norm.scale, norm.shift))
    whole = replace(norm, x=x, scale=scale, shift=shift)
    return _shaped(whole, flow)


def _shaped(norm: _Norm, flow: Dataflow) -> _Norm | None:
    """The norm with the reshape after it, of which axis 1 is the channels."""
    reader = flow.sole_reader(norm.last)
    if reader is None or flow.op(reader) != "relax.reshape":
        return None
    if shape(reader)[:2] != (shape(norm.x)[0], norm.channels):
        return None
    return replace(norm, last=reader)


def _with_arithmetic(norm: _Norm, flow: Dataflow) -> _Norm:
    """The norm with the products and sums after it."""
    while (reader := flow.sole_reader(norm.last)) is not None:
        op = flow.op(reader)
        if op not in ("relax.multiply", "relax.add") or shape(reader) != shape(norm.last):
            break
        first, second = flow.values[reader].args
        other = _by_channel(second if first.same_as(norm.last) else first, norm, reader)
        if other is None:
            break
        if op == "relax.multiply":
            norm = replace(norm, scale=norm.scale * other, shift=norm.shift * other, last=reader)
        else:
            norm = replace(norm, shift=norm.shift + other, last=reader)
    return norm


def _by_channel(value: relax.Expr, norm: _Norm, like: relax.Var) -> NDArray[np.float64] | None:
    """A constant of one value for each channel, (C,), or for all; else None."""
    numbers = array(value)
    sizes = shape(like)
    if numbers is None or len(sizes) < 2 or sizes[1] != norm.channels:
        return None
    whole = numbers.reshape((1,) * (len(sizes) - numbers.ndim) + numbers.shape)
    if whole.shape[1] not in (1, norm.channels) or whole.size != whole.shape[1]:
        return None
    return np.broadcast_to(whole.reshape(-1).astype(np.float64), (norm.channels,))
