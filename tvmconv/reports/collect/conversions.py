"""The layout conversions that are left after all passes, and the cause of each.

Found in the graph before kernels replace the regions, and in the plan: what `lower_convs` will
emit, without the time to schedule kernels and pack weights.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import tvm
from tvm import relax

from schedules.conv.precision import Precision
from schedules.machine.cost import Machine, memory_cost
from tvmconv.onnx.model import inputs, shapes_of
from tvmconv.passes.graph import Dataflow, dtype, element_bytes, is_constant, shape
from tvmconv.passes.plan.plan import Plan, PlannedConv
from tvmconv.passes.plan.readers import FOLLOWS_INPUT
from tvmconv.reports.data.build import ConversionReport

#: Names of the axes of an image, channels first.
LETTERS = {3: "NCW", 4: "NCHW", 5: "NCDHW"}
#: By operators of Relax: those of ONNX, if the name differs.
KINDS = {
    "reshape": ("Flatten", "Reshape", "Squeeze", "Unsqueeze"),
    "permute_dims": ("Transpose",),
}
#: The transposes that `import_convs` puts around a 3-D convolution.
PLANES = ((0, 4, 1, 2, 3, 5, 6), (0, 2, 1, 3, 4))
PERMUTE, TRANSPOSED = "relax.permute_dims", "relax.nn.conv2d_transpose"


def conversions(
    mod: tvm.IRModule,
    plan: Plan,
    machine: Machine | None,
    simple: onnx.ModelProto,
    precision: Precision,
) -> tuple[ConversionReport, ...]:
    """Returns the conversions in the order of the graph.

    mod: after all passes, its regions planned. simple: the ONNX graph that was compiled, for its
    names. precision: what the kernels read.
    """
    graph = _Graph.of(mod, plan, simple, precision.x)
    found: list[ConversionReport] = []
    for var in graph.live():
        found += graph.conversions(var, machine)
    return tuple(found)


@dataclass(frozen=True)
class _Graph:
    """The bindings of `main`, and the kernels that will replace some of them."""

    flow: Dataflow
    simple: onnx.ModelProto
    #: Shapes of the tensors of `simple`.
    shapes: dict[str, tuple[int, ...]]
    params: list[relax.Var]
    #: By variable: the convolutions that write its tensor.
    kernels: dict[relax.Var, list[PlannedConv]]
    #: By variable: the number of convolutions that read it.
    regions: Counter[relax.Var]
    #: The dtype that the kernels read.
    narrow: str
    #: By tensor, as far as known: True if it is in that dtype once the kernels are in place.
    narrowed: dict[relax.Var, bool]

    @classmethod
    def of(cls, mod: tvm.IRModule, plan: Plan, simple: onnx.ModelProto, narrow: str) -> _Graph:
        kernels: dict[relax.Var, list[PlannedConv]] = defaultdict(list)
        regions: Counter[relax.Var] = Counter()
        for planned in plan.values():
            kernels[planned.place.buffer].append(planned)
            regions.update(set(_tensors(planned)))
        shapes = {name: tuple(sizes) for name, sizes in shapes_of(simple).items()}
        params = list(mod["main"].params)
        return cls(Dataflow.of(mod), simple, shapes, params, dict(kernels), regions, narrow, {})

    def reads(self, var: relax.Var) -> list[relax.Var]:
        """Returns the variables read to compute `var`, by the kernels if there are some."""
        if var in self.kernels:
            return [one for planned in self.kernels[var] for one in _tensors(planned)]
        value = self.flow.values.get(var)
        return [] if value is None else list(relax.analysis.free_vars(value))

    def live(self) -> list[relax.Var]:
        """Returns the variables that are still computed with the kernels in place, in order."""
        found: set[relax.Var] = set()
        waiting: list[relax.Expr] = list(self.flow.outputs)
        while waiting:
            var = waiting.pop()
            if var not in found:
                found.add(var)
                waiting += self.reads(var)
        return [var for var in self.flow.values if var in found]

    def conversions(self, var: relax.Var, machine: Machine | None) -> Iterator[ConversionReport]:
        """Yields the conversions that computing `var` needs."""
        if var in self.kernels:
            layout = self.kernels[var][0].layout
            if layout.copied_for:
                what = f"{layout.layout} -> NHWC"
                yield _report(what, shape(var), layout.copied_for, machine, self.narrow)
        elif self.flow.op(var) == PERMUTE:
            x = self.flow.values[var].args[0]
            yield self._permuted(var, x, machine)
        elif self.flow.op(var) == TRANSPOSED:
            cause = "TVM computes transposed convolutions in NCHW"
            x = self.flow.values[var].args[0]
            yield _report("NHWC -> NCHW", shape(x), cause, machine, dtype(x))
            yield _report("NCHW -> NHWC", shape(var), cause, machine, dtype(var))

    def _permuted(self, var: relax.Var, x: relax.Expr, machine: Machine | None) -> ConversionReport:
        axes = self.flow.values[var].attrs.axes
        rank = len(shape(x))
        order = tuple(map(int, axes)) if axes is not None else tuple(reversed(range(rank)))
        read = self.narrow if self._is_narrow(x) else dtype(x)
        # A cast joins the copy: to the kernels' dtype, or to the output's.
        outputs, _ = self._forward(var)
        for_kernels = self.regions[var] == len(self.flow.readers[var]) and not outputs
        narrow = for_kernels or (read == self.narrow and not outputs)
        what = _named(order)
        cause = self._cause(var, x, order, what)
        return _report(what, shape(x), cause, machine, read, self.narrow if narrow else dtype(var))

    def _is_narrow(self, x: relax.Expr) -> bool:
        """Returns True if a tensor is in the kernels' dtype once they are in place."""
        if not isinstance(x, relax.Var) or dtype(x) == self.narrow:
            return isinstance(x, relax.Var)
        if x not in self.narrowed:
            self.narrowed[x] = self._becomes_narrow(x)
        return self.narrowed[x]

    def _becomes_narrow(self, x: relax.Var) -> bool:
        if self.flow.op(x) == "relax.astype":
            return self._is_narrow(self.flow.values[x].args[0])
        if x in self.kernels:
            workload = self.kernels[x][0].kernels[0].choice.workload
            return workload.precision.result == workload.precision.x
        if self.flow.op(x) not in FOLLOWS_INPUT:
            return False
        tensors = relax.analysis.free_vars(self.flow.values[x])
        return bool(tensors) and all(map(self._is_narrow, tensors))

    # ---------------------------------------------------------------- causes

    def _cause(self, var: relax.Var, x: relax.Expr, order: tuple[int, ...], what: str) -> str:
        if order in PLANES or any(self._is_plane(one) for one in (x, *self.flow.readers[var])):
            return "a 3-D convolution's planes are computed as images"
        if self._is_weight(var):
            return "the weights of a convolution are computed"
        if what not in _BOTH_WAYS:
            return "a transpose of the model's own"
        source = self._back(x)
        if source in self.params:
            names = [value.name for value in inputs(self.simple)]
            name, layout = names[self.params.index(source)], what.split()[0]
            where = "in the model" if self.shapes.get(name) == shape(source) else "as it is fed"
            return f"input {name!r} is {layout} {where}"
        outputs, readers = self._forward(var)
        if what.startswith("NC"):
            # As of keys in an attention, which are no images and have no layout.
            if not self.regions[var] and readers == [one for one in readers if "MatMul" in one]:
                return "a transpose of the model's own"
            return f"{self._operator(source)} gives {what.split()[0]}"
        if outputs:
            layout = what.split()[-1]
            where = "in the model" if layout.startswith("NC") else "as it was asked for"
            return f"output {self._output_name(outputs[0])!r} is {layout} {where}"
        return f"{', '.join(readers)} {'read' if readers[1:] else 'reads'} {what.split()[-1]}"

    def _is_plane(self, value: relax.Expr) -> bool:
        """Returns True if a reshape connects the tensor with one of `PLANES`."""
        if not isinstance(value, relax.Var) or self.flow.op(value) != "relax.reshape":
            return False
        around = [*self.flow.readers[value], self.flow.values[value].args[0]]
        calls = [self.flow.values[v] for v in around if self.flow.op(v) == PERMUTE]
        return any(
            call.attrs.axes is not None and tuple(map(int, call.attrs.axes)) in PLANES
            for call in calls
        )

    def _is_weight(self, var: relax.Var) -> bool:
        return any(
            self.flow.op(reader).startswith("relax.nn.conv")
            and self.flow.values[reader].args[1].same_as(var)
            for reader in self.flow.readers[var]
        )

    def _back(self, x: relax.Expr) -> relax.Expr:
        """Returns a tensor before casts and reshapes that only add or drop axes of size 1."""
        while isinstance(x, relax.Var) and self._renames(x):
            x = self.flow.values[x].args[0]
        return x

    def _forward(self, var: relax.Var) -> tuple[list[relax.Var], list[str]]:
        """Returns the outputs that a tensor becomes, and its readers, after such reshapes."""
        outputs = [var] if var in self.flow.outputs else []
        readers: list[str] = []
        for reader in self.flow.readers[var]:
            if self._renames(reader):
                further = self._forward(reader)
                outputs += further[0]
                readers += further[1]
            elif isinstance(self.flow.values[reader], relax.Tuple):
                outputs += [var] if reader in self.flow.outputs else []
            else:
                readers.append(self._operator(reader))
        return outputs, list(dict.fromkeys(readers))

    def _renames(self, var: relax.Var) -> bool:
        """Returns True for a cast, which joins its neighbour, or such a reshape."""
        if self.flow.op(var) == "relax.astype":
            return True
        if self.flow.op(var) != "relax.reshape":
            return False
        before, after = shape(self.flow.values[var].args[0]), shape(var)
        return [size for size in before if size > 1] == [size for size in after if size > 1]

    def _operator(self, value: relax.Expr) -> str:
        """Returns the name in ONNX if one node has the same shapes and kind, else Relax's."""
        if not isinstance(value, relax.Var) or not self.flow.op(value):
            return "a constant" if is_constant(value) else "a tuple"
        op = self.flow.op(value).rpartition(".")[2]
        kinds = KINDS.get(op, (op.replace("_", ""),))
        read = self.flow.values[value].args[0]
        found = [
            node
            for node in self.simple.graph.node
            if node.op_type.lower() in {kind.lower() for kind in kinds}
            and self.shapes.get(node.output[0]) == _shape(value)
            and self.shapes.get(node.input[0])
            == (shape(read) if isinstance(read, relax.Var) else ())
        ]
        if len(found) == 1:
            return f"{found[0].op_type} {found[0].name!r}"
        return found[0].op_type if found else op.replace("permute_dims", "a transpose")

    def _output_name(self, var: relax.Var) -> str:
        """Returns the name of the output that is `var`, or a tuple with it."""
        body = next(v for v in self.flow.outputs)
        value = self.flow.values.get(body)
        given = list(value.fields) if isinstance(value, relax.Tuple) else [body]
        at = next(i for i, one in enumerate(given) if one.same_as(var))
        return str(self.simple.graph.output[at].name)


def _tensors(planned: PlannedConv) -> list[relax.Var]:
    """Returns the tensors that a convolution's kernels read, without constants."""
    return list(planned.region.reads)


def _orders() -> dict[tuple[int, ...], str]:
    """Returns conversions between channels first and channels last, by their order of axes."""
    found = {}
    for rank, first in LETTERS.items():
        last = first[0] + first[2:] + "C"
        found[(0, *range(2, rank), 1)] = f"{first} -> {last}"
        found[(0, rank - 1, *range(1, rank - 1))] = f"{last} -> {first}"
    return found


_ORDERS = _orders()
_BOTH_WAYS = set(_ORDERS.values())


def _named(order: tuple[int, ...]) -> str:
    return _ORDERS.get(order, f"axes {order}")


def _report(
    what: str,
    of: tuple[int, ...],
    cause: str,
    machine: Machine | None,
    read: str,
    written: str = "",
) -> ConversionReport:
    moved = math.prod(of) * (element_bytes(read) + element_bytes(written or read))
    us = memory_cost(moved, machine).us if machine is not None else 0.0
    return ConversionReport(what, of, cause, moved, us)


def _shape(value: relax.Expr) -> tuple[int, ...] | None:
    """Returns the shape of a tensor; None for a tuple, as from a Split."""
    return shape(value) if isinstance(value.ty, relax.TensorType) else None
