"""Prospects of a model, before any build: the `CapabilityReport` of `inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tvmconv.reports.data.build import BuildReport, ConvReport
from tvmconv.reports.data.report import Report
from tvmconv.specs import TensorSpec

#: A layer is of one of these kinds, and has any number of the traits.
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
    """The report of a build that was not made. ``str()`` is tables; JSON goes both ways.

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
        """True if every operator can be built."""
        return not self.unsupported

    @property
    def unsupported(self) -> dict[str, int]:
        """Operators that can't be built, with the reason, and how often each occurs."""
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
