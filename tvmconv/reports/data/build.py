"""The report of a build, `BuildReport`, which is kept in the artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, Literal

from tvmconv.reports.data.report import Report

CONVOLUTIONS = ("Conv", "ConvTranspose")
#: Input channels of a group from which on tensor cores are worth it.
SUITED_CHANNELS = 8
#: By what a family and a configuration were chosen: the cost model's estimate, the times that
#: `tune` measured, the caller of `build`, or nothing, where there was no choice.
ChosenBy = Literal["model", "tuned", "pinned", "default"]


@dataclass(frozen=True)
class OperatorReport:
    """One node of the ONNX graph and its fate."""

    name: str
    operator: str
    fate: str


@dataclass(frozen=True)
class ConvReport:
    """One convolution, or product with a constant matrix: its kernel, the reasons, the costs."""

    name: str
    #: ONNX's: Conv, ConvTranspose, Gemm or MatMul.
    operator: str
    #: Readable: ``1x56x56x64 -> 64, 3x3``.
    shape: str
    #: Each kernel's `schedules.ConvWorkload` as JSON: one, or one for each phase of a transposed
    #: convolution's stride; none where TVM computes it.
    workloads: tuple[str, ...]
    family: str
    config: str
    in_layout: str
    out_layout: str
    epilogue: str
    #: Whether the multiply-adds run on tensor cores, on llvm as their emulation.
    tensor_core: bool
    #: The reason that decided for this family, and for this layout.
    why_family: str
    why_layout: str
    useful_macs: int
    padded_macs: int
    #: What the choice was estimated to take, and what limits it: of a GPU one of
    #: `schedules.machine.model.LIMITS`, else arithmetic, memory or latency. 0 where nothing is
    #: known, as of TVM's kernels, and of a simulated tensor core.
    cost_us: float = 0.0
    limit: str = ""
    #: What it would take at least, on tensor cores and with no padding.
    floor_us: float = 0.0
    #: The next best family, if more than one matches, and what it was estimated to take.
    runner_up: str = ""
    runner_up_us: float = 0.0
    #: `tvmconv.onnx.kinds.Layer` says what these are.
    kind: str = ""
    traits: tuple[str, ...] = ()
    group_channels: int = 0
    #: Time of what the model would choose over that of what is, both measured by `tune`, where a
    #: record decided; `cost_us` and `runner_up_us` are then those times. Else 0.
    tuned: float = 0.0
    #: Names of the kernels in the code, one for each workload; layers that are alike share them.
    kernels: tuple[str, ...] = ()
    #: Every operand once, in bytes; and what the instruction that multiplies reaches, in 1e12
    #: operations a second, 0 on a CPU.
    moved_bytes: int = 0
    instruction_tflops: float = 0.0
    #: The convolution whose kernel computes this one as well, if it has none of its own. All but
    #: the multiply-adds of both is then said there.
    part_of: str = ""
    chosen_by: ChosenBy = "default"
    #: Why each family that does not take it declines, by family.
    declined: dict[str, str] = field(default_factory=dict)

    @property
    def waste(self) -> float:
        """Share of the multiply-adds carried out that padding asked for, 0 to 1."""
        return 1 - self.useful_macs / self.padded_macs if self.padded_macs else 0.0


@dataclass(frozen=True)
class ConversionReport:
    """A copy of a tensor into another order of axes, that is left after all passes."""

    #: Such as ``NCHW -> NHWC``, or ``axes (0, 2, 1)`` of a transpose that is none of those.
    conversion: str
    #: Of what is read.
    shape: tuple[int, ...]
    #: Who needs it.
    cause: str
    #: Read and written; and what that was estimated to take.
    moved_bytes: int
    us: float


@dataclass(frozen=True)
class KernelReport:
    """A kernel of TVM's: one of those that compute everything but the convolutions."""

    #: In the code. Kernels that are alike share it.
    name: str
    #: The ONNX nodes that it computes, by name; none where it only converts a tensor.
    nodes: tuple[str, ...]
    #: Every operand and result once, in bytes.
    moved_bytes: int
    #: Time to move them, at least that of the shortest kernel; 0 where nothing is known.
    us: float


@dataclass(frozen=True)
class MachineReport:
    """The machine that a report's microseconds are of. Where it has no name they are all 0: there
    is no model of what runs the network."""

    #: Such as ``H200``, or LLVM's name for a CPU.
    name: str = ""
    #: How its rates are known.
    source: str = ""
    #: The GPU's architecture, where its costs were asked for though a CPU runs the network.
    asked_for: str = ""

    @property
    def title(self) -> str:
        """Such as ``as on an H200 (sm_90a)``, where that was asked for; else empty."""
        if not self.asked_for:
            return ""
        article = "an" if self.name[0] in "AHLR" else "a"
        return f"as on {article} {self.name} ({self.asked_for})"

    def __str__(self) -> str:
        return f"{self.title or self.name}: {self.source}" if self.name else ""


@dataclass(frozen=True)
class BuildReport(Report):
    """One build. ``str()`` is a table; `to_json` and `from_json` go both ways.

    Built for buckets, it is the report of the largest, with those of the others in `smaller`.
    """

    target: str
    arch: str
    operators: tuple[OperatorReport, ...]
    convs: tuple[ConvReport, ...]
    #: Operators that can't be built and how often each occurs; only `inspect` gives any.
    unsupported: dict[str, int]
    #: Bytes that activations take as planned, and the least that they could: the largest sum of
    #: those live at once. `tvmconv.passes.memory.plan_memory.MemoryUse` says what counts; 0 before
    #: a build.
    peak_activation_bytes: int = 0
    activation_bound_bytes: int = 0
    #: Of the outputs, which are the caller's and lie outside of what is planned.
    output_bytes: int = 0
    #: Of what the network takes at this batch, packed.
    weight_bytes: int = 0
    #: With what several buckets have in common, where this is the largest.
    build_seconds: float = 0.0
    #: First dimension of the first input: images a run.
    batch: int = 1
    #: Of all buckets together, equal arrays once.
    stored_weight_bytes: int = 0
    #: Of the smaller buckets, the smallest first.
    smaller: tuple[BuildReport, ...] = ()
    #: Every conversion of layouts that is left.
    conversions: tuple[ConversionReport, ...] = ()
    #: The machine that costs and floors are of.
    machine: MachineReport = MachineReport()
    #: Kernels of TVM's, in order. Conversions are among them.
    kernels: tuple[KernelReport, ...] = ()

    @property
    def convolutions(self) -> tuple[ConvReport, ...]:
        """The entries of `convs` that ONNX calls convolutions."""
        return tuple(conv for conv in self.convs if conv.operator in CONVOLUTIONS)

    @property
    def tensorized(self) -> int:
        """Convolutions on tensor cores, on llvm their emulation."""
        return sum(conv.tensor_core for conv in self.convolutions)

    @property
    def useful_macs(self) -> int:
        """Multiply-adds that the definition asks for."""
        return sum(conv.useful_macs for conv in self.convs)

    @property
    def padded_macs(self) -> int:
        """Multiply-adds that kernels carry out, with padding."""
        return sum(conv.padded_macs for conv in self.convs)

    @property
    def waste(self) -> float:
        """Share of all multiply-adds carried out that padding asked for, 0 to 1."""
        return 1 - self.useful_macs / self.padded_macs if self.padded_macs else 0.0

    @property
    def cost_us(self) -> float:
        """Estimated time of all kernels, TVM's too, one after the other."""
        return sum(conv.cost_us for conv in self.convs) + self.kernel_us

    @property
    def kernel_us(self) -> float:
        """The part of `cost_us` that TVM's kernels take."""
        return sum(one.us for one in self.kernels)

    @property
    def conversion_us(self) -> float:
        """The part of `kernel_us` that conversions take."""
        return sum(one.us for one in self.conversions)

    @property
    def floor_us(self) -> float:
        """The least time of all layers, on tensor cores and with no padding."""
        return sum(conv.floor_us for conv in self.convs)

    @property
    def tensor_core_macs(self) -> int:
        """The part of `useful_macs` on tensor cores, on llvm their emulation."""
        return sum(conv.useful_macs for conv in self.convs if conv.tensor_core)

    @property
    def suited(self) -> tuple[ConvReport, ...]:
        """The convolutions that tensor cores are made for: `SUITED_CHANNELS` a group or more."""
        return tuple(one for one in self.convolutions if one.group_channels >= SUITED_CHANNELS)

    def to_json(self) -> dict[str, Any]:
        """The fields by their names."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BuildReport:
        """Returns the report that `to_json` gave as `data`, also where that was before some of the
        fields existed. Raises ``TypeError`` or ``KeyError`` where it is no report."""
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data or _required(f)}
        nested: dict[str, Callable[[Any], Any]] = {
            "operators": lambda item: OperatorReport(**item),
            "convs": lambda item: ConvReport(**_tuples(item, "workloads", "traits", "kernels")),
            "conversions": lambda item: ConversionReport(**_tuples(item, "shape")),
            "kernels": lambda item: KernelReport(**_tuples(item, "nodes")),
            "smaller": cls.from_json,
        }
        for name in nested.keys() & known.keys():
            known[name] = tuple(map(nested[name], known[name]))
        if "machine" in known:
            known["machine"] = MachineReport(**known["machine"])
        return cls(**known)


def _required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _tuples(item: dict[str, Any], *names: str) -> dict[str, Any]:
    """With the lists that JSON makes of tuples as tuples again."""
    return {**item, **{name: tuple(item[name]) for name in names}}
