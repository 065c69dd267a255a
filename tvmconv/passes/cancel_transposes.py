"""Remove the transposes that a conversion of layouts left, by letting pairs of them meet.

Before:  y = permute_dims(relu(permute_dims(x, (0, 3, 1, 2))), (0, 2, 3, 1))
After:   y = relu(x)
Requires: between them operators that compute the same in any order of axes: elementwise ones,
          concat, pad, softmax, reductions that keep their dimensions. A group of such operators
          changes its order only if fewer elements are transposed for it in all, and not if a
          transpose would come between a convolution and its epilogue.
Formula: permute(permute(x, a), b) = permute(x, [a[i] for i in b]); f(permute(x, a)) =
         permute(f(x), a). A transpose that moves only axes of one element is a reshape, and a
         reshape of a reshape is one; those to the shape that was there already go.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmconv.passes import graph

UNARY = frozenset(
    "relax." + name
    for name in (
        "nn.relu nn.leakyrelu nn.silu nn.gelu nn.gelu_tanh nn.prelu sigmoid tanh erf exp log sqrt "
        "rsqrt negative abs floor ceil round clip astype"
    ).split()
)
BINARY = frozenset(
    "relax." + name
    for name in "add subtract multiply divide power maximum minimum".split()
)
REDUCTIONS = frozenset("relax." + name for name in "mean sum max min".split())
#: Their `axis` says which axis they mean.
ONE_AXIS = frozenset(
    "relax." + name for name in "concat nn.softmax nn.log_softmax nn.prelu".split()
)
#: What follows them is their epilogue, which a transpose in between would keep out.
WITH_EPILOGUE = frozenset(
    "relax." + name for name in "nn.conv2d nn.conv2d_transpose matmul".split()
)

RESHAPE = "relax.reshape"

#: permute_dims(x, axes) has as its axis i the axis axes[i] of x.
Axes = tuple[int, ...]


def compose(first: Axes, then: Axes) -> Axes:
    """permute(permute(x, first), then) as one."""
    return tuple(first[axis] for axis in then)


def inverse(axes: Axes) -> Axes:
    """What undoes `axes`."""
    return tuple(axes.index(axis) for axis in range(len(axes)))


@dataclass(frozen=True)
class _Read:
    """A binding reads `chain` of `root`: through the transposes between, of which it may be none.

    `reader` is the variable that it binds if the binding may have its axes in any order.
    """

    root: relax.Var
    chain: Axes
    reader: relax.Var | None


class _Orders:
    """In which order of axes each group of operators computes.

    A variable v of a group with order q is computed as v', and v = permute(v', q).
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self.bound = {binding.var: binding.value for binding in graph.bindings(mod)}
        self.groups: dict[relax.Var, relax.Var] = {
            var: var for var, value in self.bound.items() if _any_order(value)
        }
        self.reads: dict[relax.Var, list[_Read]] = defaultdict(list)
        for var, value in self.bound.items():
            if self.transposed(value) is None:
                self._read(value, var if var in self.groups else None)
        self._read(mod["main"].body.body, None)
        self.order: dict[relax.Var, Axes] = {}
        self._settle()

    def transposed(self, value: relax.Expr) -> Axes | None:
        """The axes of a transpose of a variable; None for whatever else.

        A reshape to the shape that was there is the transpose that changes nothing.
        """
        name = graph.op_name(value)
        if name not in ("relax.permute_dims", RESHAPE) or not isinstance(value.args[0], relax.Var):
            return None
        rank = len(graph.shape(value))
        if name == RESHAPE:
            same = graph.shape(value) == graph.shape(value.args[0])
            return tuple(range(rank)) if same else None
        if value.attrs.axes is None:
            return tuple(reversed(range(rank)))
        return tuple(int(axis) % rank for axis in value.attrs.axes)

    def source(self, var: relax.Var) -> tuple[relax.Var, Axes]:
        """What `var` is a transpose of, and how; itself if it is none."""
        axes = self.transposed(self.bound[var]) if var in self.bound else None
        if axes is None:
            return var, tuple(range(len(graph.shape(var))))
        root, before = self.source(self.bound[var].args[0])
        return root, compose(before, axes)

    def of(self, var: relax.Var | None, rank: int) -> Axes:
        """The order that a variable is computed in."""
        group = self.group(var) if var in self.groups else var
        return self.order.get(group, tuple(range(rank)))

    def group(self, var: relax.Var) -> relax.Var:
        """The one of its group that stands for it."""
        while not self.groups[var].same_as(var):
            var = self.groups[var]
        return var

    def _read(self, value: relax.Expr, reader: relax.Var | None) -> None:
        for var in read_tensors(value):
            root, chain = self.source(var)
            # What has no axes, and is broadcast, is read as it is.
            axes = 0 if reader is None else len(graph.shape(reader))
            by = reader if len(chain) == axes else None
            self.reads[root].append(_Read(root, chain, by))
            if by is not None and root in self.groups and chain == tuple(range(len(chain))):
                self.groups[self.group(root)] = self.group(by)

    def demanded(self, read: _Read) -> Axes:
        """How the reader needs the root, as it is computed, transposed."""
        rank = len(read.chain)
        wanted = compose(self.of(read.root, rank), read.chain)
        return compose(wanted, inverse(self.of(read.reader, rank)))

    def _cost(self, root: relax.Var) -> int:
        """Elements that are transposed because of who reads `root`."""
        sizes = graph.shape(root)
        shape = [sizes[axis] for axis in inverse(self.of(root, len(sizes)))]
        guarded = graph.op_name(self.bound.get(root)) in WITH_EPILOGUE
        weights: dict[Axes, int] = {}
        for read in self.reads[root]:
            axes = self.demanded(read)
            if moves(shape, axes):
                weight = 4 if guarded and read.reader is not None else 1
                weights[axes] = max(weight, weights.get(axes, 0))
        return math.prod(shape) * sum(weights.values())

    def _settle(self) -> None:
        """Group by group, the order that costs least, until none can be bettered."""
        around: dict[relax.Var, list[_Read]] = defaultdict(list)
        for reads in self.reads.values():
            for read in reads:
                ends = [end for end in (read.root, read.reader) if end in self.groups]
                for group in {self.group(end) for end in ends}:
                    around[group].append(read)
        # Only next to a transpose is there anything to gain.
        changing = [group for group, reads in around.items() if any(map(self._crosses, reads))]
        changed = True
        while changed:
            changed = any([self._improve(group, around[group]) for group in changing])

    def _crosses(self, read: _Read) -> bool:
        return read.chain != tuple(range(len(read.chain)))

    def _improve(self, group: relax.Var, reads: Sequence[_Read]) -> bool:
        roots = list(dict.fromkeys(read.root for read in reads))
        rank = len(graph.shape(group))
        best = start = self.of(group, rank)
        least = sum(map(self._cost, roots))
        for order in dict.fromkeys(self._wishes(group, reads)):
            self.order[group] = order
            cost = sum(map(self._cost, roots))
            if cost < least:
                best, least = order, cost
        self.order[group] = best
        return best != start

    def _wishes(self, group: relax.Var, reads: Sequence[_Read]) -> list[Axes]:
        """The orders in which one of `reads` would need no transpose."""
        found = []
        for read in reads:
            rank = len(read.chain)
            inside = [
                end in self.groups and self.group(end).same_as(group) for end in (read.root, read.reader)
            ]
            if inside == [True, False]:
                found.append(compose(self.of(read.reader, rank), inverse(read.chain)))
            elif inside == [False, True]:
                found.append(compose(self.of(read.root, rank), read.chain))
        return found


def read_tensors(value: relax.Expr) -> list[relax.Var]:
    """The tensors that a binding reads."""
    if isinstance(value, relax.Call):
        return [found for arg in value.args for found in read_tensors(arg)]
    if isinstance(value, relax.Tuple):
        return [found for field in value.fields for found in read_tensors(field)]
    is_tensor = isinstance(value, relax.Var) and isinstance(value.ty, relax.TensorType)
    return [value] if is_tensor else []


def moves(shape: Sequence[int], axes: Axes) -> bool:
    """Whether a transpose changes the order of elements in memory."""
    long = [axis for axis in axes if shape[axis] != 1]
    return long != sorted(long)


def _any_order(value: relax.Expr) -> bool:
    """Whether an operator computes the same with its axes in another order."""
    name = graph.op_name(value)
    if not isinstance(value.ty, relax.TensorType) or len(graph.shape(value)) < 2:
        return False
    if name in BINARY:
        rank = len(graph.shape(value))
        return all(
            graph.is_constant(arg) or len(graph.shape(arg)) in (0, rank)
            for arg in value.args
        )
    if name in REDUCTIONS:
        return bool(value.attrs.keepdims) and value.attrs.axis is not None
    if name == "relax.nn.prelu":
        return graph.is_constant(value.args[1])
    return name in UNARY or name in ONE_AXIS or name == "relax.nn.pad"


class _Rewrite:
    """Writes every binding anew, in the orders that were settled."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self.orders = _Orders(mod)
        self.builder = relax.BlockBuilder()
        self.new: list[relax.VarBinding] = []
        self.computed: dict[relax.Var, relax.Var] = {}
        self.made: dict[tuple[relax.Var, Axes], relax.Var] = {}
        #: Of what each reshape is one.
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
        elif straight:
            call = relax.Call(value.op, read, value.attrs, value.ty_args)
            self.new.append(relax.VarBinding(var, self.builder.normalize(call)))
        else:
            self.computed[var] = self._bind(_reordered(value, read, order), var.name)

    def _reshape(self, var: relax.Var, x: relax.Var) -> None:
        """Binds `var`, a reshape of x, which may be one itself."""
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
        """`value` as a reader of `order` needs it; None is the order that it had."""
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
    """A constant that is broadcast, as an operator of `order` reads it."""
    if order == tuple(range(len(order))) or not graph.shape(value):
        return value
    numbers = value.value.numpy()
    full = numbers.reshape([1] * (len(order) - numbers.ndim) + list(numbers.shape))
    return relax.const(np.ascontiguousarray(full.transpose(inverse(order))), numbers.dtype.name)


def _reordered(call: relax.Call, args: Sequence[relax.Expr], order: Axes) -> relax.Call:
    """An operator whose result is computed in `order`; `args` are in that order already."""
    name, attributes = graph.op_name(call), call.attrs
    if name in ONE_AXIS:
        axis = order[int(attributes.axis) % len(order)]
        if name == "relax.concat":
            return relax.op.concat(args[0], axis)
        if name == "relax.nn.prelu":  # its slopes are along the one axis, whichever that is
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
    @tvm.transform.module_pass(opt_level=0, name="cancel_transposes")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return _Rewrite(mod).run(mod)

    tidy = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential([run, *tidy], name="cancel_transposes")
