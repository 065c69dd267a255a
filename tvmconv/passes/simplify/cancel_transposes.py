"""Remove transposes that ConvertLayout left, by moving them until pairs cancel.

Before:  y = permute_dims(relu(permute_dims(x, (0, 3, 1, 2))), (0, 2, 3, 1))
After:   y = relu(x)
Requires: between them operators that compute the same in any order of axes: elementwise ones,
          concat, pad, softmax, reductions that keep their dimensions. A group of such operators
          changes its order only if fewer elements are transposed for it in all, and not if a
          transpose would come between a convolution and its epilogue.
Formula: permute(permute(x, a), b) = permute(x, [a[i] for i in b]); f(permute(x, a)) =
         permute(f(x), a). A transpose that moves only axes of one element is a reshape; a reshape
         of a reshape is one reshape, and one that keeps the shape is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmconv.passes import graph
from tvmconv.passes.simplify.axis_orders import (
    ONE_AXIS,
    REDUCTIONS,
    RESHAPE,
    Axes,
    Orders,
    compose,
    inverse,
    moves,
    read_tensors,
)


class _Rewrite:
    """Rewrites every binding in the orders that were chosen."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self.orders = Orders(mod)
        self.builder = relax.BlockBuilder()
        self.new: list[relax.VarBinding] = []
        self.computed: dict[relax.Var, relax.Var] = {}
        self.made: dict[tuple[relax.Var, Axes], relax.Var] = {}
        #: The variable that each reshape is a reshape of.
        self.reshaped: dict[relax.Var, relax.Var] = {}

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        for binding in graph.bindings(mod):
            if self.orders.transposed(binding.value) is None:
                self._binding(binding)
        output = mod["main"].body.body
        if isinstance(output.ty, relax.TensorType) and isinstance(output, relax.Var):
            value = self._read(output, tuple(range(len(graph.shape(output)))))
            if not value.same_as(output):
                output = relax.Var(output.name, output.ty)
                self.new.append(relax.VarBinding(output, value))
        return graph.with_bindings(mod, self.new, output)

    def _binding(self, binding: relax.VarBinding) -> None:
        var, value = binding.var, binding.value
        if not isinstance(value, (relax.Call, relax.Tuple)):
            self.new.append(binding)
            return
        order = None
        if var in self.orders.groups:
            rank = len(graph.shape(var))
            order = self.orders.of(var, rank)
        given = value.args if isinstance(value, relax.Call) else value.fields
        read = [self._read(one, order) for one in given]
        straight = order is None or order == tuple(range(len(order)))
        if graph.op_name(value) == RESHAPE and isinstance(read[0], relax.Var):
            self._reshape(var, read[0])
        elif straight and all(one.same_as(old) for one, old in zip(read, given, strict=True)):
            self.new.append(binding)
        elif isinstance(value, relax.Tuple):
            self.new.append(relax.VarBinding(var, self.builder.normalize(relax.Tuple(read))))
        elif order is None or straight:
            call = relax.Call(value.op, read, value.attrs, value.ty_args)
            self.new.append(relax.VarBinding(var, self.builder.normalize(call)))
        else:
            self.computed[var] = self._bind(_reordered(value, read, order), var.name)

    def _reshape(self, var: relax.Var, x: relax.Var) -> None:
        """Binds `var` to a reshape of x; x may be a reshape itself."""
        source = self.reshaped.get(x, x)
        if graph.shape(source) == graph.shape(var):
            self.computed[var] = source
            return
        value = self.builder.normalize(relax.op.reshape(source, graph.shape(var)))
        self.new.append(relax.VarBinding(var, value))
        self.reshaped[var] = source

    def _bind(self, value: relax.Expr, name: str) -> relax.Var:
        value = self.builder.normalize(value)
        var = relax.DataflowVar(name, value.ty)
        self.new.append(relax.VarBinding(var, value))
        return var

    def _read(self, value: relax.Expr, order: Axes | None) -> relax.Expr:
        """`value` in the axes of a reader of `order`; None keeps the original axes."""
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._read(field, order) for field in value.fields])
        if graph.is_constant(value) and order is not None:
            return _constant(value, order)
        if not read_tensors(value):
            return value
        root, chain = self.orders.source(value)
        rank = len(chain)
        axes = compose(self.orders.of(root, rank), chain)
        if order is not None and len(order) == rank:
            axes = compose(axes, inverse(order))
        return self._transposed(root, axes)

    def _transposed(self, root: relax.Var, axes: Axes) -> relax.Var:
        x = self.computed.get(root, root)
        if axes == tuple(range(len(axes))):
            return x
        if (root, axes) not in self.made:
            sizes = graph.shape(x)
            shape = [sizes[axis] for axis in axes]
            name = f"{root.name}_transposed"
            if moves(sizes, axes):
                self.made[root, axes] = self._bind(relax.op.permute_dims(x, axes), name)
            else:
                var = relax.DataflowVar(name, relax.TensorType(shape, x.ty.dtype))
                self._reshape(var, x)
                self.made[root, axes] = self.computed.get(var, var)
        return self.made[root, axes]


def _constant(value: relax.Expr, order: Axes) -> relax.Expr:
    """A broadcast constant, in the axes of an operator of `order`."""
    if order == tuple(range(len(order))) or not graph.shape(value):
        return value
    numbers = value.value.numpy()
    full = numbers.reshape([1] * (len(order) - numbers.ndim) + list(numbers.shape))
    return relax.const(np.ascontiguousarray(full.transpose(inverse(order))), numbers.dtype.name)


def _reordered(call: relax.Call, args: Sequence[relax.Expr], order: Axes) -> relax.Call:
    """The call that computes in `order`; `args` are in that order already."""
    name, attributes = graph.op_name(call), call.attrs
    if name in ONE_AXIS:
        axis = order[int(attributes.axis) % len(order)]
        if name == "relax.concat":
            return relax.op.concat(args[0], axis)
        if name == "relax.nn.prelu":  # its slopes stay along their one axis
            return relax.op.nn.prelu(args[0], call.args[1], axis)
        return getattr(relax.op.nn, name.rpartition(".")[2])(args[0], axis)
    if name in REDUCTIONS:
        axes = [order[int(axis) % len(order)] for axis in attributes.axis]
        return getattr(relax.op, name.rpartition(".")[2])(args[0], axes, keepdims=True)
    if name == "relax.nn.pad":
        widths: list[Any] = [0] * (2 * len(order))
        for axis, place in enumerate(order):
            widths[2 * place : 2 * place + 2] = attributes.pad_width[2 * axis : 2 * axis + 2]
        return relax.op.nn.pad(
            args[0], [int(width) for width in widths], attributes.pad_mode, attributes.pad_value
        )
    return relax.Call(call.op, args, attributes)


def cancel_transposes() -> tvm.transform.Pass:
    """Returns the pass."""

    @tvm.transform.module_pass(opt_level=0, name="cancel_transposes")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return _Rewrite(mod).run(mod)

    tidy = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential([run, *tidy], name="cancel_transposes")
