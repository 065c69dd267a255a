"""Makes the `CapabilityReport` of `inspect`: the result of a build, without building."""

from __future__ import annotations

import math
from collections import Counter

import onnx

from tvmconv.onnx.model import inputs, opset, specs
from tvmconv.onnx.supported import operator, verdicts
from tvmconv.reports.data.build import BuildReport
from tvmconv.reports.data.capability import CapabilityReport, OperatorSupport
from tvmconv.specs import OPEN

#: By operator: its inputs that are numbers of weights and biases, and those that are scales.
NUMBERS = {
    "DequantizeLinear": (0,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QGemm": (3, 6),
}
SCALES = {
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
    "QGemm": (1, 4, 7),
}


def capability(
    original: onnx.ModelProto, simple: onnx.ModelProto, plan: BuildReport
) -> CapabilityReport:
    """Returns the report.

    original: the given model with fixed shapes. simple: the simplified model, or the same if it
    cannot be simplified. plan: the report of its plan.
    """
    return CapabilityReport(
        specs(inputs(original)),
        # More shapes can be inferred if constants are folded.
        specs(simple.graph.output, OPEN),
        opset(original),
        _parameters(original),
        _operators(original, simple),
        plan,
    )


def _parameters(proto: onnx.ModelProto) -> int:
    """Returns the number of trained parameters, as `CapabilityReport.parameters` defines it."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    others: set[str] = set()
    numbers: set[str] = set()
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        given = dict(enumerate(node.input))
        others.update(given.get(at, "") for at in SCALES.get(node.op_type, ()))
        numbers.update(given.get(at, "") for at in NUMBERS.get(node.op_type, ()))
        if node.op_type == "BatchNormalization":
            others.update(node.input[3:5])
        elif node.op_type == "Constant" and node.attribute[0].HasField("t"):
            tensors[node.output[0]] = node.attribute[0].t
    return sum(
        math.prod(tensor.dims)
        for name, tensor in tensors.items()
        if (tensor.data_type in floats or name in numbers) and tensor.dims and name not in others
    )


def _operators(original: onnx.ModelProto, simple: onnx.ModelProto) -> tuple[OperatorSupport, ...]:
    """Counts every node of the original once, with its reason if it cannot be built.

    A reason found only in the simplified model goes to the node of the same name. An operator
    of which nothing is left there needs no kernel: every one was folded away.
    """
    found = {node.name: (operator(node), reason) for node, reason in verdicts(original)}
    if simple is not original:
        left = {operator(node) for node in simple.graph.node}
        found = {
            name: (kind, reason if kind in left else None) for name, (kind, reason) in found.items()
        }
        refused = ((n, why) for n, why in verdicts(simple, folded=True) if why is not None)
        found |= {node.name: (operator(node), why) for node, why in refused}
    counted = Counter(found.values())
    supports = (
        OperatorSupport(name, count, reason is None, reason or "")
        for (name, reason), count in counted.items()
    )
    return tuple(sorted(supports, key=lambda one: (one.supported, -one.count, one.operator)))
