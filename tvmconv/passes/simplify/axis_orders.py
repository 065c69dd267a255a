"""Chooses the order of axes that each operator computes in, so that transposes cancel.

Used by `cancel_transposes`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import relax

from tvmconv.passes import graph

UNARY = (
    *("relax.nn.relu", "relax.nn.leakyrelu", "relax.nn.silu", "relax.nn.gelu"),
    *("relax.nn.gelu_tanh", "relax.sigmoid", "relax.tanh", "relax.erf", "relax.exp", "relax.log"),
    *("relax.sqrt", "relax.rsqrt", "relax.negative", "relax.abs", "relax.floor", "relax.ceil"),
    *("relax.round", "relax.clip", "relax.astype"),
)
BINARY = (
    *("relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.power"),
    *("relax.maximum", "relax.minimum"),
)
REDUCTIONS = ("relax.mean", "relax.sum", "relax.max", "relax.min")
#: Operators with an attribute `axis`.
ONE_AXIS = ("relax.concat", "relax.nn.softmax", "relax.nn.log_softmax", "relax.nn.prelu")
#: Operators with an epilogue, which a transpose behind them would keep out.
WITH_EPILOGUE = ("relax.nn.conv2d", "relax.nn.conv2d_transpose", "relax.matmul")

RESHAPE = "relax.reshape"

#: Axis i of permute_dims(x, axes) is axis axes[i] of x.
Axes = tuple[int, ...]


def compose(first: Axes, then: Axes) -> Axes:
    """The axes of permute(permute(x, first), then) as one transpose."""
    return tuple(first[axis] for axis in then)


def inverse(axes: Axes) -> Axes:
    """The axes of the inverse transpose."""
    return tuple(axes.index(axis) for axis in range(len(axes)))


@dataclass(frozen=True)
class Read:
    """A read of `root` by a binding, through a chain of transposes that may be empty.

    `reader` is the variable of the binding, if the binding computes in any order of axes.
    """

    root: relax.Var
    chain: Axes
    reader: relax.Var | None


class Orders:
    """The order of axes of each group of operators.

    A variable v of a group with order q is computed as v', and v = permute(v', q).
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self.bound = {binding.var: binding.value for binding in graph.bindings(mod)}
        self.groups: dict[relax.Var, relax.Var] = {
            var: var for var, value in self.bound.items() if _any_order(value)
        }
        self.reads: dict[relax.Var, list[Read]] = defaultdict(list)
        for var, value in self.bound.items():
            if self.transposed(value) is None:
                self._read(value, var if var in self.groups else None)
        #: Outputs of the network.
        self.given = {self.source(var) for var in read_tensors(mod["main"].body.body)}
        self._read(mod["main"].body.body, None)
        self.order: dict[relax.Var, Axes] = {}
        self._settle()

    def transposed(self, value: relax.Expr) -> Axes | None:
        """Axes of a transpose of a variable; None for any other expression.

        A reshape that keeps the shape counts as a transpose that changes nothing.
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
        """The variable that `var` is a transpose of, with the axes; itself if it is none."""
        axes = self.transposed(self.bound[var]) if var in self.bound else None
        if axes is None:
            return var, tuple(range(len(graph.shape(var))))
        root, before = self.source(self.bound[var].args[0])
        return root, compose(before, axes)

    def of(self, var: relax.Var | None, rank: int) -> Axes:
        """The order of axes that a variable is computed in."""
        group = self.group(var) if var in self.groups else var
        return self.order.get(group, tuple(range(rank)))

    def group(self, var: relax.Var) -> relax.Var:
        """The variable that represents the group of `var`."""
        while not self.groups[var].same_as(var):
            var = self.groups[var]
        return var

    def _read(self, value: relax.Expr, reader: relax.Var | None) -> None:
        for var in read_tensors(value):
            root, chain = self.source(var)
            # A scalar is broadcast, and needs no transpose.
            axes = 0 if reader is None else len(graph.shape(reader))
            by = reader if len(chain) == axes else None
            self.reads[root].append(Read(root, chain, by))
            if by is not None and root in self.groups and chain == tuple(range(len(chain))):
                self.groups[self.group(root)] = self.group(by)

    def demanded(self, read: Read) -> Axes:
        """Axes of the transpose from the root, as it is computed, to what the reader needs."""
        rank = len(read.chain)
        wanted = compose(self.of(read.root, rank), read.chain)
        return compose(wanted, inverse(self.of(read.reader, rank)))

    def _cost(self, root: relax.Var) -> float:
        """Elements that are transposed for the readers of `root`."""
        sizes = graph.shape(root)
        shape = [sizes[axis] for axis in inverse(self.of(root, len(sizes)))]
        inside: set[Axes] = set()
        guarded = graph.op_name(self.bound.get(root)) in WITH_EPILOGUE
        weights: dict[Axes, float] = {}
        for read in self.reads[root]:
            axes = self.demanded(read)
            if moves(shape, axes):
                weight = 4.0 if guarded and read.reader is not None else 1.0
                weights[axes] = max(weight, weights.get(axes, 0.0))
                # Of equal amounts, transpose inputs and outputs of the network: an operator between
                # two convolutions may become a part of one.
                if root in self.bound and (root, read.chain) not in self.given:
                    inside.add(axes)
        # One more for each, to prefer fewer kernels.
        return (math.prod(shape) + 1) * sum(weights.values()) + 1e-3 * len(inside)

    def _settle(self) -> None:
        """Gives each group the order that costs least, until nothing improves."""
        around: dict[relax.Var, list[Read]] = defaultdict(list)
        for reads in self.reads.values():
            for read in reads:
                ends = [end for end in (read.root, read.reader) if end in self.groups]
                for group in {self.group(end) for end in ends}:
                    around[group].append(read)
        # Only groups next to a transpose can improve.
        changing = [group for group, reads in around.items() if any(map(self._crosses, reads))]
        changed = True
        while changed:
            changed = False
            for group in changing:
                changed |= self._improve(group, around[group])

    def _crosses(self, read: Read) -> bool:
        return read.chain != tuple(range(len(read.chain)))

    def _improve(self, group: relax.Var, reads: Sequence[Read]) -> bool:
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

    def _wishes(self, group: relax.Var, reads: Sequence[Read]) -> list[Axes]:
        """The orders in which one of `reads` would need no transpose."""
        found = []
        for read in reads:
            rank = len(read.chain)
            inside = [
                end in self.groups and self.group(end).same_as(group)
                for end in (read.root, read.reader)
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
    """True if a transpose changes the order of elements in memory."""
    long = [axis for axis in axes if shape[axis] != 1]
    return long != sorted(long)


def _any_order(value: relax.Expr) -> bool:
    """True for an operator that computes the same in any order of axes."""
    name = graph.op_name(value)
    if not isinstance(value.ty, relax.TensorType) or len(graph.shape(value)) < 2:
        return False
    if name in BINARY:
        rank = len(graph.shape(value))
        return all(
            graph.is_constant(arg) or len(graph.shape(arg)) in (0, rank) for arg in value.args
        )
    if name in REDUCTIONS:
        return bool(value.attrs.keepdims) and value.attrs.axis is not None
    if name == "relax.nn.prelu":
        return graph.is_constant(value.args[1])
    return name in UNARY or name in ONE_AXIS or name == "relax.nn.pad"
