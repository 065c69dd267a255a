"""Compute the activation after a convolution in its epilogue.

Before:  s = sigmoid(y); z = multiply(y, s)          any arrangement of pointwise operators
After:   the kernel computes silu, or another function of `schedules.conv.activations`
Requires: one result z, computed from y and scalars alone; no other reader of y or of values
          between; the scale of a QuantizeLinear is no part of it
Formula: z = f(y). A function is recognised by its values, not by its operators: they are evaluated
         in NumPy and compared with the table's formulas. Slopes by channel come from PRelu alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from tvm import relax, tirx

from schedules.conv.activations import NumpyMath, recognise
from tvmconv.passes.graph import Dataflow, array, shape
from tvmconv.passes.regions.absorb_scale import by_channel
from tvmconv.passes.regions.region import Region

#: NumPy functions of pointwise operators, with the same order of arguments; those of two first.
BINARY: dict[str, Callable[..., Any]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
}
POINTWISE: dict[str, Callable[..., Any]] = {
    **BINARY,
    "relax.power": np.power,
    "relax.negative": np.negative,
    "relax.exp": np.exp,
    "relax.erf": NumpyMath.erf,
    "relax.sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relax.tanh": np.tanh,
    "relax.clip": np.clip,
    "relax.nn.relu": lambda x: np.maximum(x, 0),
    "relax.nn.silu": lambda x: x / (1 + np.exp(-x)),
    "relax.nn.gelu": lambda x: x * 0.5 * (1 + NumpyMath.erf(x / np.sqrt(2))),
}
#: The most operators of an activation; GELU, the longest, has fewer.
MOST_OPERATORS = 8


def activation_after(region: Region, flow: Dataflow) -> Region | None:
    """The region with the activation that follows, of as many operators as possible; or None."""
    if region.activation.kind != "none" or region.residual_last:
        return None
    if (sloped := _prelu(region, flow)) is not None:
        return sloped
    cone = _cone(region.output, flow)
    for end in reversed(range(len(cone))):
        if not _closed(region.output, cone[: end + 1], flow):
            continue
        last = cone[end]
        found = recognise(partial(_evaluate, last, region.output, flow))
        if found is not None and not (found.affine and _is_rounded(last, flow)):
            return replace(region, output=last, activation=found)
    return None


def _cone(y: relax.Var, flow: Dataflow) -> list[relax.Var]:
    """Variables computed from y and scalars alone by pointwise operators, in order."""
    cone: list[relax.Var] = []
    waiting = list(flow.readers[y])
    while waiting and len(cone) < MOST_OPERATORS:
        waiting.sort(key=flow.position)
        var = waiting.pop(0)
        if var in cone or not _pointwise(var, [y, *cone], flow):
            continue
        cone.append(var)
        waiting += flow.readers[var]
    return sorted(cone, key=flow.position)


def _pointwise(var: relax.Var, known: list[relax.Var], flow: Dataflow) -> bool:
    op = flow.op(var)
    if op != "relax.nn.leakyrelu" and op not in POINTWISE:
        return False
    if shape(var) != shape(known[0]):
        return False
    return all(
        arg in known if isinstance(arg, relax.Var) else _scalar(arg) is not None
        for arg in flow.values[var].args
    )


def _scalar(value: Any) -> float | None:
    """The value of an argument that is one number; else None."""
    if isinstance(value, tirx.IntImm | tirx.FloatImm):
        return float(value.value)
    numbers = array(value)
    return float(numbers.reshape(-1)[0]) if numbers is not None and numbers.size == 1 else None


def _closed(y: relax.Var, cone: list[relax.Var], flow: Dataflow) -> bool:
    """True if only the cone's last variable is read from outside of it."""
    inner = [y, *cone[:-1]]
    return all(
        var not in flow.outputs and flow.readers[var] and set(flow.readers[var]) <= set(cone)
        for var in inner
    )


def _is_rounded(var: relax.Var, flow: Dataflow) -> bool:
    """True for the quotient of a QuantizeLinear, whose scale is its own."""
    return any(flow.op(reader) == "relax.round" for reader in flow.readers[var])


def _evaluate(var: relax.Var, y: relax.Var, flow: Dataflow, x: Any) -> Any:
    """Evaluates `var` in NumPy, with the value x for y."""
    if var.same_as(y):
        return x
    call, op = flow.values[var], flow.op(var)
    args: list[Any] = [
        _evaluate(arg, y, flow, x) if isinstance(arg, relax.Var) else _scalar(arg)
        for arg in call.args
    ]
    if op == "relax.nn.leakyrelu":
        return np.where(args[0] < 0, args[0] * float(call.attrs.alpha), args[0])
    return POINTWISE[op](*args)


def _prelu(region: Region, flow: Dataflow) -> Region | None:
    """The region with a PRelu of one slope for each channel."""
    reader = flow.sole_reader(region.output)
    if reader is None or flow.op(reader) != "relax.nn.prelu":
        return None
    call = flow.values[reader]
    slope = by_channel(call.args[1], region.k)
    innermost = int(call.attrs.axis) in (-1, len(shape(call)) - 1)
    if slope is None or not innermost:
        return None
    from_table = replace(region.activation, kind="prelu")
    return replace(region, output=reader, activation=from_table, slope=slope)
