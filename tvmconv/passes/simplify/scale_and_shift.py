"""Write every batch norm, and every chain of per-channel arithmetic, as one multiply and one add.

Before:  y = batch_norm(x, gamma, beta, mean, variance)[0]
         (or any chain of x + c, x - c, c - x, x * c, x / c and batch norms)
After:   y = add(multiply(x, scale), shift); a scale of ones and a shift of zeros are left out
Requires: float constants, along one channel axis throughout or of one number each; no other
          reader of the values inside the chain; scale and shift that the dtype of x can hold. The
          new constants have the rank of x, so that ConvertLayout carries layouts across them.
Formula: scale = gamma / sqrt(variance + epsilon), shift = beta - mean * scale, and
         (x * s1 + t1) * s2 + t2 = x * (s1 * s2) + (t1 * s2 + t2), all of it in float64
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvmconv.passes import graph

ARITHMETIC = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide")


@dataclass(frozen=True)
class _Affine:
    """x * scale + shift, both float64 and (C,) along `axis`, or (1,) if `axis` is None."""

    x: relax.Expr
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    axis: int | None

    def after(self, first: _Affine) -> _Affine | None:
        """The composition, `first` applied before this; None if their axes differ."""
        if None not in (self.axis, first.axis) and self.axis != first.axis:
            return None
        axis = first.axis if self.axis is None else self.axis
        scale, shift = first.scale * self.scale, first.shift * self.scale + self.shift
        return _Affine(first.x, scale, shift, axis)

    def fits(self, dtype: str) -> bool:
        """True if rounding to `dtype` makes no number infinite and no scale zero."""
        info = np.finfo(dtype)
        scale, shift = np.abs(self.scale), np.abs(self.shift)
        large = np.isfinite(scale) & (scale <= info.max) & np.isfinite(shift) & (shift <= info.max)
        return bool(np.all(large & ((scale == 0) | (scale >= info.tiny))))


def scale_and_shift() -> tvm.transform.Pass:
    """Returns the pass."""

    @tvm.transform.module_pass(opt_level=0, name="scale_and_shift")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        found, inside = _chains(mod)
        new: list[relax.VarBinding] = []
        for binding in graph.bindings(mod):
            if binding.var in inside:
                continue
            if binding.var in found:
                _emit(found[binding.var], binding.var, new)
            else:
                new.append(binding)
        return graph.with_bindings(mod, new, mod["main"].body.body)

    tidy = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential([run, *tidy], name="scale_and_shift")


def _chains(mod: tvm.IRModule) -> tuple[dict[relax.Var, _Affine], set[relax.Var]]:
    """Each variable as a function of the start of its chain; and the variables inside chains."""
    bound = {binding.var: binding.value for binding in graph.bindings(mod)}
    reads = graph.uses(mod)
    found: dict[relax.Var, _Affine] = {}
    inside: set[relax.Var] = set()
    for var, value in bound.items():
        step = _step(value, bound)
        if step is None or not step.fits(graph.dtype(step.x)):
            continue
        first = found.get(step.x) if isinstance(step.x, relax.Var) else None
        whole = step.after(first) if first is not None and _alone(step.x, reads) else None
        if whole is not None and whole.fits(graph.dtype(step.x)):
            inside.add(step.x)
            step = whole
        found[var] = step
    return found, inside


def _alone(var: relax.Var, reads: Counter[relax.Var]) -> bool:
    return reads[var] == 1


def _step(value: relax.Expr, bound: Mapping[relax.Var, relax.Expr]) -> _Affine | None:
    """The function of one binding, if it is per channel; else None."""
    if isinstance(value, relax.TupleGetItem) and value.index == 0:
        norm = bound.get(value.tuple_value)
        return _norm(norm) if graph.op_name(norm) == "relax.nn.batch_norm" else None
    name = graph.op_name(value)
    if name not in ARITHMETIC or not graph.dtype(value).startswith("float"):
        return None
    x, constant = value.args
    reverse = not graph.is_constant(constant)
    if reverse:
        x, constant = constant, x
    numbers = graph.array(constant)
    if numbers is None or graph.is_constant(x) or graph.shape(x) != graph.shape(value):
        return None
    channels = _per_channel(numbers.astype(np.float64), len(graph.shape(x)))
    if channels is None or (name == "relax.divide" and (reverse or not np.all(channels[0]))):
        return None
    return _of_arithmetic(name, x, *channels, reverse)


def _of_arithmetic(
    name: str, x: relax.Expr, c: NDArray[np.float64], axis: int | None, reverse: bool
) -> _Affine:
    one, zero = np.ones_like(c), np.zeros_like(c)
    if name == "relax.multiply":
        return _Affine(x, c, zero, axis)
    if name == "relax.divide":
        return _Affine(x, 1 / c, zero, axis)
    if name == "relax.add":
        return _Affine(x, one, c, axis)
    return _Affine(x, -one, c, axis) if reverse else _Affine(x, one, -c, axis)


def _norm(call: relax.Call) -> _Affine | None:
    x, *parameters = call.args
    arrays = [graph.array(one) for one in parameters]
    if call.attrs.training or any(one is None for one in arrays) or graph.is_constant(x):
        return None
    gamma, beta, mean, variance = (np.asarray(one, np.float64) for one in arrays)
    if not np.all(variance + call.attrs.epsilon > 0):
        return None
    scale = 1 / np.sqrt(variance + call.attrs.epsilon)
    if call.attrs.scale:
        scale = gamma * scale
    shift = (beta if call.attrs.center else 0) - mean * scale
    return _Affine(x, scale, shift, int(call.attrs.axis) % len(graph.shape(x)))


def _per_channel(
    numbers: NDArray[np.float64], rank: int
) -> tuple[NDArray[np.float64], int | None] | None:
    """Values of a broadcast constant, with their axis in a tensor of `rank`."""
    if numbers.ndim > rank:
        return None
    axes = [rank - numbers.ndim + at for at, size in enumerate(numbers.shape) if size != 1]
    if len(axes) > 1 or numbers.size == 0:
        return None
    return numbers.reshape(-1), axes[0] if axes else None


def _emit(affine: _Affine, var: relax.Var, into: list[relax.VarBinding]) -> None:
    """Appends the bindings that compute `affine`, the last of them of `var`."""
    dtype, rank = graph.dtype(var), len(graph.shape(var))

    def constant(values: NDArray[np.float64]) -> relax.Expr:
        if affine.axis is None:
            return relax.const(values[0].astype(dtype), dtype)
        return relax.const(graph.along(values, affine.axis, rank).astype(dtype), dtype)

    x = affine.x
    scaled, shifted = bool(np.any(affine.scale != 1)), bool(np.any(affine.shift != 0))
    if scaled and shifted:
        product = relax.op.multiply(x, constant(affine.scale))
        x = relax.DataflowVar(f"{var.name}_scaled", var.ty)
        into.append(relax.VarBinding(x, relax.BlockBuilder().normalize(product)))
    if shifted:
        x = relax.op.add(x, constant(affine.shift))
    elif scaled:
        x = relax.op.multiply(x, constant(affine.scale))
    into.append(relax.VarBinding(var, relax.BlockBuilder().normalize(x)))
