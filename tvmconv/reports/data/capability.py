"""Prospects of a model, before any build: the `CapabilityReport` of `inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tvmconv.reports.data.build import BuildReport, ConvReport
from tvmconv.reports.data.report import Report
from tvmconv.specs import TensorSpec

#: A layer has one of these kinds, and any number of the traits.
KINDS = ("dense", "grouped", "depthwise", "matrix product", "product of activations")
TRAITS = (
    "1x1",
    "strided",
    "dilated",
    "transposed",
    "1-D",
    "3-D",
    "few input channels",
)


@dataclass(frozen=True)
class OperatorSupport:
    """One operator of a model, its count, and True if it can be built."""

    operator: str
    count: int
    supported: bool
    #: Reason if not; empty if it is just not implemented.
    reason: str = ""


@dataclass(frozen=True)
class KindReport:
    """The sum of the layers of one kind, or with one trait."""

    kind: str
    count: int
    macs: int
    #: The part of `macs` on tensor cores; and multiply-adds executed, padding included.
    tensor_core_macs: int
    padded_macs: int
    cost_us: float
    floor_us: float

    @classmethod
    def of(cls, kind: str, convs: Sequence[ConvReport]) -> KindReport:
        """Returns the sums over `convs`."""
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
class CapabilityReport(Report):
    """The report of a build that was not made. ``str()`` is tables; JSON is an inverse.

    For several buckets it describes the largest; `plan` has the others.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    #: Trained parameters: floating-point constants without scalars, batch norms' statistics and
    #: scales of quantised tensors; and weights and biases in integers.
    parameters: int
    #: Those that cannot be built first, then by count.
    operators: tuple[OperatorSupport, ...]
    #: The report of a build, without its sizes and times. If operators cannot be built, its layers
    #: are those of the ONNX graph, without family or cost.
    plan: BuildReport

    @property
    def buildable(self) -> bool:
        """True if every operator can be built, or runs in onnxruntime."""
        return not self.unsupported

    @property
    def unsupported(self) -> dict[str, int]:
        """Count by operator that cannot be built, with its reason."""
        return self.plan.unsupported

    @property
    def convs(self) -> tuple[ConvReport, ...]:
        """Convolutions and matrix products."""
        return self.plan.convs

    @property
    def convolutions(self) -> tuple[ConvReport, ...]:
        """The entries of `convs` that ONNX calls convolutions."""
        return self.plan.convolutions

    @property
    def smaller(self) -> tuple[BuildReport, ...]:
        """Reports of the smaller buckets, the smallest first."""
        return self.plan.smaller

    @property
    def kinds(self) -> tuple[KindReport, ...]:
        """Sums by kind; every layer is in one."""
        groups = ((kind, [conv for conv in self.convs if conv.kind == kind]) for kind in KINDS)
        return tuple(KindReport.of(kind, convs) for kind, convs in groups if convs)

    @property
    def traits(self) -> tuple[KindReport, ...]:
        """Sums by trait; a layer is in as many as it has."""
        groups = ((name, [conv for conv in self.convs if name in conv.traits]) for name in TRAITS)
        return tuple(KindReport.of(name, convs) for name, convs in groups if convs)

    @property
    def all(self) -> KindReport:
        """Sum over all layers."""
        return KindReport.of("all", self.convs)

    @property
    def suited(self) -> KindReport:
        """Sum over the convolutions that suit tensor cores; see `BuildReport.suited`."""
        return KindReport.of("suited", self.plan.suited)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields, and `kinds`, `traits`, `all` and `suited`, which follow from them."""
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
        """Returns the report of `to_json`. Raises ``TypeError`` or ``KeyError`` for other data."""
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
