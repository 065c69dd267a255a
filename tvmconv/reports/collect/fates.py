"""The fate of every node of the ONNX graph: its kernel, or why there is none.

Three steps lead from a node to a kernel. onnxruntime's simplification keeps names of nodes and
tensors. The passes keep names of variables (`tvmconv.reports.collect.nodes`). The plan and the
outline say which kernel computes a variable.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import tvm
from tvm import relax

from tvmconv.onnx.model import read_by
from tvmconv.passes.graph import Dataflow, array
from tvmconv.passes.plan.plan import Plan, PlannedConv
from tvmconv.passes.products.plan_products import ProductPlan
from tvmconv.reports.collect.outline import OutlinedKernel
from tvmconv.reports.data.build import OperatorReport

#: Operators of Relax that fold into a convolution's weights and bias, with a constant.
LINEAR = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide")
#: Operators of ONNX that only rename, move or cast elements.
MOVES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
#: Operators of ONNX that read only shapes, which are constants here.
SHAPES = ("Shape", "Size")
#: The operator of a norm of groups, whose result has another shape.
INSTANCE_NORM = "InstanceNormalization"
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

CONSTANT = "a constant, computed when built"
NOTHING = "did nothing, removed"
NO_KERNEL = "no kernel, its readers read the same elements"
TVM, IN_TVM = "a kernel of TVM's", "in a kernel of TVM's"


def operator_fates(
    original: onnx.ModelProto,
    simple: onnx.ModelProto,
    mod: tvm.IRModule,
    plan: Plan,
    products: ProductPlan,
    nodes: Mapping[relax.Var, str],
    kernels: Sequence[OutlinedKernel],
) -> tuple[OperatorReport, ...]:
    """Returns a report for each node of `original`.

    simple: the graph that was compiled. mod: its regions planned. nodes: ONNX nodes by the
    variables that are their results. kernels: TVM's.
    """
    variables = _variable_fates(mod, plan, nodes, kernels)
    known = product_fates(products)
    fates = _compiled(_Nodes.of(simple), variables, nodes, plan, known)
    return fates_of_original(original, simple, fates)


def fates_of_original(
    original: onnx.ModelProto, simple: onnx.ModelProto, fates: Mapping[str, str]
) -> tuple[OperatorReport, ...]:
    """Returns a report for each node of `original`. fates: of the nodes of `simple`, by name."""
    before, after = _Nodes.of(original), _Nodes.of(simple)
    folded = _folded_after(before, after)
    reports = []
    for node in original.graph.node:
        fate = fates.get(node.name) or _simplified_away(node, before, after, folded)
        reports.append(OperatorReport(node.name, node.op_type, fate))
    return tuple(reports)


# ---------------------------------------------------------------- variables


def _variable_fates(
    mod: tvm.IRModule,
    plan: Plan,
    nodes: Mapping[relax.Var, str],
    kernels: Sequence[OutlinedKernel],
) -> dict[relax.Var, str]:
    """Returns the fate of each variable that a kernel computes."""
    flow = Dataflow.of(mod)
    fates: dict[relax.Var, str] = {}
    ends = {planned.region.output for planned in plan.values()}
    for planned in plan.values():
        in_place = _between(flow, planned.place.buffer, ends)
        fates |= dict.fromkeys(in_place, f"written in place by a convolution: {planned.name}")
        fates |= _region_fates(flow, planned)
    for kernel in kernels:
        named = {nodes[var] for var in kernel.variables if var in nodes}
        fate = TVM if len(named) < 2 else f"{IN_TVM}: {kernel.name}"
        fates |= dict.fromkeys(kernel.variables, fate)
    for var, value in flow.values.items():
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in fates:
            fates[var] = fates[value.tuple_value]
    return fates


def product_fates(products: ProductPlan) -> dict[str, str]:
    """Returns the fates of the nodes that kernels of products compute, by name."""
    fates: dict[str, str] = {}
    for one in products.values():
        if not one.product.layers:
            continue
        kind, name = one.choice.name, one.product.layers[-1]
        for node in one.product.nodes:
            fates.setdefault(node, f"in the kernel of {kind}: {name}")
        fates[name] = f"{kind} kernel"
    return fates


def _region_fates(flow: Dataflow, planned: PlannedConv) -> dict[relax.Var, str]:
    """Returns the fates of the variables that the kernel of a convolution computes."""
    fates: dict[relax.Var, str] = {}
    first = planned.region.prologue
    for region in filter(None, (first, planned.region)):
        read = set(region.reads)
        if first is not None and region is planned.region:
            read.add(first.output)
        found = _between(flow, region.output, read)
        fates |= dict.fromkeys(found, f"in the kernel of a convolution: {planned.name}")
        weights = f"folded into the weights of a convolution: {region.name}"
        for var in found:
            if flow.op(var) == region.op:
                fates |= dict.fromkeys(_scales(flow, var, found), weights)
    return fates


def _between(flow: Dataflow, last: relax.Var, before: Collection[relax.Var]) -> list[relax.Var]:
    """Returns `last` and the variables that it is computed from, as far as `before`."""
    found: list[relax.Var] = []
    waiting = [last]
    while waiting:
        var = waiting.pop()
        if var in found or var in before or var not in flow.values:
            continue
        found.append(var)
        waiting.extend(relax.analysis.free_vars(flow.values[var]))
    return found


def _scales(flow: Dataflow, conv: relax.Var, inside: Collection[relax.Var]) -> list[relax.Var]:
    """Returns the arithmetic with constants right after a convolution, within `inside`."""
    found: list[relax.Var] = []
    var = flow.sole_reader(conv)
    while var is not None and var in inside and flow.op(var) in LINEAR:
        if all(array(arg) is None for arg in flow.values[var].args):
            break
        found.append(var)
        var = flow.sole_reader(var)
    return found


# ---------------------------------------------------------------- nodes


@dataclass(frozen=True)
class _Nodes:
    """The nodes of a graph, by name, by the tensors that they make, and by those that they read."""

    by_name: dict[str, onnx.NodeProto]
    makers: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]
    #: Nodes that read only constants and shapes.
    constant: set[str]
    #: Constants, and tensors computed from them and shapes.
    constants: set[str]
    #: By node: the first that computes the same.
    equals: dict[str, str]

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> _Nodes:
        """Returns the nodes of a graph, each with a name of its own."""
        by_name, makers, equals = {}, {}, {}
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        known = {tensor.name for tensor in proto.graph.initializer}
        constant: set[str] = set()
        numbers: dict[str, Any] = {
            tensor.name: _value(tensor) for tensor in proto.graph.initializer
        }
        first: dict[Any, str] = {}
        for node in proto.graph.node:
            by_name[node.name] = node
            makers.update(dict.fromkeys(node.output, node))
            for name in read_by(node):
                readers[name].append(node)
            if node.op_type in SHAPES or all(not name or name in known for name in node.input):
                constant.add(node.name)
                known.update(node.output)
            key = _computation(node, numbers)
            if (same := first.setdefault(key, node.name)) != node.name:
                equals[node.name] = same
            numbers.update({output: (key, at) for at, output in enumerate(node.output)})
        return cls(by_name, makers, readers, constant, known, equals)

    def alike(self, name: str) -> list[str]:
        """Returns the other nodes that compute the same as one."""
        first = self.equals.get(name, name)
        found = [first, *(other for other, same in self.equals.items() if same == first)]
        return [other for other in found if other != name]

    def after(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Returns the nodes that read what a node makes."""
        return [reader for output in node.output for reader in self.readers[output]]


def _value(tensor: onnx.TensorProto) -> Any:
    """Returns the key of a constant; equal constants have equal keys."""
    return ("constant", hash(tensor.raw_data or tensor.SerializeToString()), tuple(tensor.dims))


def _computation(node: onnx.NodeProto, numbers: Mapping[str, Any]) -> Any:
    """Returns the key of a computation: operator, attributes and operands."""
    attributes = tuple(sorted(one.SerializeToString() for one in node.attribute))
    operands = tuple(numbers.get(name, name) for name in node.input)
    return hash((node.op_type, node.domain, attributes, operands))


def _compiled(
    graph: _Nodes,
    variables: Mapping[relax.Var, str],
    nodes: Mapping[relax.Var, str],
    plan: Plan,
    known: Mapping[str, str],
) -> dict[str, str]:
    """Returns the fate of each node of the graph that was compiled. known: those of some."""
    fates = dict(known)
    for var, name in nodes.items():
        if var in variables:
            fates.setdefault(name, variables[var])
    left = set(nodes.values()).difference(fates)
    fates |= dict.fromkeys(left, NO_KERNEL)
    for planned in plan.values():
        if (first := planned.region.prologue) is not None:
            fates[first.name] = f"in the kernel of a convolution: {planned.name}"
        fates[planned.name] = f"{planned.kernels[0].choice.family.name} kernel"
    # From last to first: a node without a result is part of its reader.
    for name, node in reversed(graph.by_name.items()):
        if name in fates:
            continue
        if name in graph.constant:
            fates[name] = CONSTANT
        elif name in graph.equals:
            fates[name] = f"merged with an equal one: {graph.equals[name]}"
        else:
            after = [fates[one.name] for one in graph.after(node) if one.op_type not in LAYERS]
            if node.op_type in MOVES:
                after = [fate for fate in after if not fate.startswith((TVM, IN_TVM))]
            elif node.op_type == INSTANCE_NORM:
                after = _past_moves(graph, node, fates)
            fates[name] = after[0] if after else NO_KERNEL
    return fates


def _past_moves(graph: _Nodes, node: onnx.NodeProto, fates: Mapping[str, str]) -> list[str]:
    """Returns the fates of the nodes that read a node, in any shape."""
    found: list[str] = []
    for one in graph.after(node):
        moved = one.op_type in MOVES and fates[one.name] == NO_KERNEL
        found += _past_moves(graph, one, fates) if moved else [fates[one.name]]
    return found


def _folded_after(before: _Nodes, after: _Nodes) -> dict[str, str]:
    """Returns, by node that is gone, the node that has its result now."""
    folded: dict[str, str] = {}
    for name, node in after.by_name.items():
        old = before.by_name.get(name)
        if old is None or not node.output or node.output[0] == old.output[0]:
            continue
        waiting = [node.output[0]]
        while waiting:
            maker = before.makers.get(waiting.pop())
            if maker is not None and maker.name not in after.by_name:
                folded[maker.name] = name
                waiting += maker.input
    return folded


def _simplified_away(
    node: onnx.NodeProto, before: _Nodes, after: _Nodes, folded: Mapping[str, str]
) -> str:
    """Returns the fate of a node that onnxruntime removed."""
    if node.name in before.constant:
        return CONSTANT
    if node.op_type in ("Identity", "Dropout"):
        return NOTHING
    if node.name in folded:
        into = folded[node.name]
        if after.by_name[into].op_type in LAYERS and node.op_type not in MOVES:
            return f"folded into the weights of a convolution: {into}"
        return f"joined with another node: {into}"
    for other in before.alike(node.name):
        if other in after.by_name:
            return f"merged with an equal one: {other}"
    left = _first_left(before.after(node), before, after)
    if left is None:
        return "unused, removed"
    if node.op_type != "Pad" and _reads_what_is_before(
        before.by_name[left.name], left, before, after
    ):
        return NOTHING
    return f"joined with another node: {left.name}"


def _first_left(
    readers: Iterable[onnx.NodeProto], before: _Nodes, after: _Nodes
) -> onnx.NodeProto | None:
    """Returns the first remaining node in the order of reading."""
    waiting, seen = list(readers), set()
    while waiting:
        node = waiting.pop(0)
        if node.name in after.by_name and node.name in before.by_name:
            return after.by_name[node.name]
        if node.name not in seen:
            seen.add(node.name)
            waiting += before.after(node)
    return None


def _reads_what_is_before(
    old: onnx.NodeProto, new: onnx.NodeProto, before: _Nodes, after: _Nodes
) -> bool:
    """Returns True if a node changed only in that it reads past removed nodes."""

    def past(name: str) -> str:
        maker = before.makers.get(name)
        while maker is not None and maker.name not in after.by_name:
            name = next((one for one in maker.input if one not in before.constants), "")
            maker = before.makers.get(name)
        return name

    # onnxruntime writes defaults of attributes explicitly.
    kept = [one for one in new.attribute if one.name in {was.name for was in old.attribute}]
    if len(old.input) != len(new.input) or _by_name(old.attribute) != _by_name(kept):
        return False
    pairs = zip(old.input, new.input, strict=True)
    return all(was in before.constants or past(was) == reads for was, reads in pairs)


def _by_name(attributes: Iterable[onnx.AttributeProto]) -> list[onnx.AttributeProto]:
    return sorted(attributes, key=lambda one: one.name)
