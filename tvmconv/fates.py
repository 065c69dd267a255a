"""What became of every node of the ONNX graph, told from the graph and the plan.

The walk follows the ONNX graph, which need not look like Relax's everywhere; where it finds no
answer it says that TVM computes the node.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import onnx

from tvmconv.onnx_model import shapes_of
from tvmconv.passes.plan import PlannedConv
from tvmconv.report import ConvReport, OperatorReport

#: Operators that onnxruntime's simplification folds into the convolution before them.
FOLDS = ("BatchNormalization", "Mul", "Add", "Div", "Sub")
#: Operators that may be the sums and the activation of an epilogue.
SUMS = ("Add", "Sum")
ACTIVATIONS = ("Relu", "Clip")


def operator_fates(
    original: onnx.ModelProto, simple: onnx.ModelProto, convs: Mapping[str, PlannedConv]
) -> tuple[OperatorReport, ...]:
    """One report per node of `original`; `simple` is the graph that was compiled."""
    fates: dict[str, str] = {}
    readers = _readers(simple)
    for node in simple.graph.node:
        if node.name in convs:
            planned = convs[node.name]
            fates[node.name] = f"{planned.choice.family.name} kernel"
            for absorbed in _absorbed(node, readers, planned):
                fates[absorbed.name] = f"in the epilogue of a convolution: {node.name}"
    remaining = {node.name for node in simple.graph.node}
    producers = {name: node for node in original.graph.node for name in node.output}
    reports = []
    for node in original.graph.node:
        if node.name in fates:
            fate = fates[node.name]
        elif node.name in remaining:
            fate = "a kernel of TVM's"
        else:
            fate = _folded(node, producers)
        reports.append(OperatorReport(node.name, node.op_type, fate))
    return tuple(reports)


def _readers(proto: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in proto.graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def _absorbed(
    conv: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], planned: PlannedConv
) -> list[onnx.NodeProto]:
    """The nodes after `conv` that its epilogue computes, in order."""
    region, absorbed, at = planned.region, [], conv
    # A bias that was no input of the node was an Add of its own.
    expected = [SUMS] * (region.bias is not None and not any(conv.input[2:]))
    expected += [SUMS] * (region.residual_argument is not None)
    expected += [ACTIVATIONS] * (region.activation.kind != "none")
    for operators in expected:
        following = readers[at.output[0]]
        if len(following) != 1 or following[0].op_type not in operators:
            break
        at = following[0]
        absorbed.append(at)
    return absorbed


def generic_convs(simple: onnx.ModelProto, convs: Mapping[str, PlannedConv]) -> list[ConvReport]:
    """The convolutions of `simple` that no family was asked about, and why."""
    shapes = shapes_of(simple)
    return [
        _generic_conv(node, shapes)
        for node in simple.graph.node
        if node.op_type in ("Conv", "ConvTranspose") and node.name not in convs
    ]


def _generic_conv(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> ConvReport:
    x, weight, y = (shapes.get(name, []) for name in (*node.input[:2], node.output[0]))
    if node.op_type == "ConvTranspose":
        why = "a transposed convolution"
    elif len(weight) != 4:
        why = f"a {len(weight) - 2}-D convolution" if weight else "a convolution of unknown shape"
    else:
        why = "a convolution whose weights are computed, not constant"
    # Every input element of a transposed convolution meets the filter once, else every output.
    pixels = math.prod(x if node.op_type == "ConvTranspose" else y)
    macs = pixels * math.prod(weight[1:])
    shape = f"{'x'.join(map(str, x))}, {'x'.join(map(str, weight))}"
    why += ": families take 2-D convolutions with constant weights"
    return ConvReport(
        name=node.name,
        shape=shape,
        workload="",
        family="TVM",
        config="",
        in_layout="NCHW",
        out_layout="NCHW",
        epilogue="none",
        tensor_core=False,
        why_family=why,
        why_layout="as in the model",
        useful_macs=macs,
        padded_macs=macs,
    )


def _folded(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Where a node went that the simplification took out."""
    before = [producers[name] for name in node.input if name in producers]
    if node.op_type in FOLDS and any(one.op_type == "Conv" for one in before):
        conv = next(one for one in before if one.op_type == "Conv")
        return f"folded into the weights of a convolution: {conv.name}"
    return "folded away: constant, identity, or part of another node"
