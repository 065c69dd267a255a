"""What would become of a model, told before any build: the `CapabilityReport` of `inspect`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from tvmconv.onnx.kinds import KINDS, TRAITS
from tvmconv.onnx.model import inputs, opset, specs
from tvmconv.onnx.supported import operator, verdicts
from tvmconv.reports import capability_text
from tvmconv.reports.build import BuildReport, ConvReport
from tvmconv.specs import TensorSpec


@dataclass(frozen=True)
class OperatorSupport:
    """One operator of a model, how often it occurs, and whether it can be built."""

    operator: str
    count: int
    supported: bool
    #: Why not; empty where nobody has written it.
    reason: str = ""


@dataclass(frozen=True)
class KindReport:
    """The layers of one kind, or with one trait, in sum."""

    kind: str
    count: int
    macs: int
    #: Of `macs`, those on tensor cores; and what the kernels carry out, padding included.
    tensor_core_macs: int
    padded_macs: int
    cost_us: float
    floor_us: float

    @classmethod
    def of(cls, kind: str, convs: Sequence[ConvReport]) -> KindReport:
        return cls(
            kind,
            len(convs),
            sum(conv.useful_macs for conv in convs),
            sum(conv.useful_macs for conv in convs if conv.tensor_core),
            sum(conv.padded_macs for conv in convs),
            sum(conv.cost_us for conv in convs),
            sum(conv.floor_us for conv in convs),
        )


@dataclass(frozen=True)
class CapabilityReport:
    """What a build would give. ``str()`` is tables; `to_json` and `from_json` go both ways.

    Of several buckets it speaks of the largest, and `plan` has the others.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    #: Numbers that were trained: floating-point constants, but scalars and batch norms' statistics.
    parameters: int
    #: What can't be built first, then by how often it occurs.
    operators: tuple[OperatorSupport, ...]
    #: As of a build, but for what only a build can tell: its sizes and times. Where operators
    #: can't be built, its layers are those of the ONNX graph, of no family and at no cost.
    plan: BuildReport

    @property
    def buildable(self) -> bool:
        return not self.unsupported

    @property
    def unsupported(self) -> dict[str, int]:
        """Operators that can't be built, with the reason, and how often each occurs."""
        return self.plan.unsupported

    @property
    def convs(self) -> tuple[ConvReport, ...]:
        return self.plan.convs

    @property
    def convolutions(self) -> tuple[ConvReport, ...]:
        return self.plan.convolutions

    @property
    def smaller(self) -> tuple[BuildReport, ...]:
        return self.plan.smaller

    @property
    def kinds(self) -> tuple[KindReport, ...]:
        """Every layer in one of them."""
        groups = ((kind, [conv for conv in self.convs if conv.kind == kind]) for kind in KINDS)
        return tuple(KindReport.of(kind, convs) for kind, convs in groups if convs)

    @property
    def traits(self) -> tuple[KindReport, ...]:
        """A layer in as many as it has."""
        groups = ((name, [conv for conv in self.convs if name in conv.traits]) for name in TRAITS)
        return tuple(KindReport.of(name, convs) for name, convs in groups if convs)

    @property
    def all(self) -> KindReport:
        """The sum over all layers."""
        return KindReport.of("all", self.convs)

    @property
    def suited(self) -> KindReport:
        """The sum over the convolutions that tensor cores are made for: with
        `report.SUITED_CHANNELS` input channels a group or more."""
        return KindReport.of("suited", self.plan.suited)

    def to_json(self) -> dict[str, Any]:
        """With `kinds`, `traits`, `all` and `suited`, which follow from the rest, beside it."""
        derived = {
            "buildable": self.buildable,
            "kinds": [asdict(one) for one in self.kinds],
            "traits": [asdict(one) for one in self.traits],
            "all": asdict(self.all),
            "suited": asdict(self.suited),
        }
        return {**derived, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CapabilityReport:
        """Raises ``TypeError`` or ``KeyError`` where `data` is not what `to_json` gives."""
        inputs, outputs = (
            tuple(TensorSpec(**{**one, "shape": tuple(one["shape"])}) for one in data[name])
            for name in ("inputs", "outputs")
        )
        return cls(
            inputs,
            outputs,
            data["opset"],
            data["parameters"],
            tuple(OperatorSupport(**one) for one in data["operators"]),
            BuildReport.from_json(data["plan"]),
        )

    def __str__(self) -> str:
        return capability_text.capability_text(self)


def capability(
    original: onnx.ModelProto, simple: onnx.ModelProto, plan: BuildReport
) -> CapabilityReport:
    """original: the model as it was given, its shapes fixed; simple: in fewer nodes, or the same
    where it can't be simplified; plan: what else is known."""
    return CapabilityReport(
        specs(inputs(original)),
        # More shapes can be inferred where constants are folded.
        specs(simple.graph.output),
        opset(original),
        _parameters(original),
        _operators(original, simple),
        plan,
    )


def _parameters(proto: onnx.ModelProto) -> int:
    """What `CapabilityReport.parameters` counts."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    statistics = set()
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "BatchNormalization":
            statistics.update(node.input[3:5])
        elif node.op_type == "Constant" and node.attribute[0].HasField("t"):
            tensors[node.output[0]] = node.attribute[0].t
    return sum(
        math.prod(tensor.dims)
        for name, tensor in tensors.items()
        if tensor.data_type in floats and tensor.dims and name not in statistics
    )


def _operators(original: onnx.ModelProto, simple: onnx.ModelProto) -> tuple[OperatorSupport, ...]:
    """Every node of the original counts once; what is found only in the simple one is said of the
    node that has the same name there, which simplification keeps."""
    found = {node.name: (operator(node), reason) for node, reason in verdicts(original)}
    if simple is not original:
        refused = ((n, why) for n, why in verdicts(simple, folded=True) if why is not None)
        found |= {node.name: (operator(node), why) for node, why in refused}
    counted = Counter(found.values())
    supports = (
        OperatorSupport(name, count, reason is None, reason or "")
        for (name, reason), count in counted.items()
    )
    return tuple(sorted(supports, key=lambda one: (one.supported, -one.count, one.operator)))
