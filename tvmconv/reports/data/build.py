"""The report of a build, `BuildReport`, which is kept in the artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, Literal

from tvmconv.reports.data.parts import CrossingReport, PartReport, part_from_json
from tvmconv.reports.data.report import Report
from tvmconv.specs import bucket_texts

CONVOLUTIONS = ("Conv", "ConvTranspose")
#: Input channels per group from which tensor cores are worthwhile.
SUITED_CHANNELS = 8
#: Products of 8-bit integers, as `ConvReport.multiplies` has them.
INTEGERS = ("s8", "u8 x s8")
#: The origin of family and configuration: the cost model's estimate, the times that `tune`
#: measured, the user, or nothing, if there was no choice.
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
    #: ONNX operator: Conv, ConvTranspose, Gemm or MatMul.
    operator: str
    #: Text such as ``1x56x56x64 -> 64, 3x3``.
    shape: str
    #: Workload of each kernel as JSON: one, or one for each phase of a transposed convolution's
    #: stride; none if TVM computes it.
    workloads: tuple[str, ...]
    family: str
    config: str
    in_layout: str
    out_layout: str
    epilogue: str
    #: True if the multiply-adds run on tensor cores, or on llvm on their emulation.
    tensor_core: bool
    #: Reasons for this family, and for this layout.
    why_family: str
    why_layout: str
    useful_macs: int
    padded_macs: int
    #: Estimated microseconds of the choice, and its limit: on a GPU one of
    #: `schedules.machine.model.LIMITS`, else arithmetic, memory or latency. 0 if unknown, as for
    #: TVM's kernels and a simulated tensor core.
    cost_us: float = 0.0
    limit: str = ""
    #: Floor in microseconds, on tensor cores and without padding.
    floor_us: float = 0.0
    #: The next best family, if more than one matches, and its estimated microseconds.
    runner_up: str = ""
    runner_up_us: float = 0.0
    #: As in `tvmconv.onnx.kinds.Layer`.
    kind: str = ""
    traits: tuple[str, ...] = ()
    group_channels: int = 0
    #: Time of the model's choice over that of the record's, both measured by `tune`, if a record
    #: decided; `cost_us` and `runner_up_us` are then those times. Else 0.
    tuned: float = 0.0
    #: Names of the kernels in the code, one for each workload; equal layers share them.
    kernels: tuple[str, ...] = ()
    #: Every operand once, in bytes; and the rate of the instruction that multiplies, in 1e12
    #: operations per second, 0 on a CPU.
    moved_bytes: int = 0
    instruction_tflops: float = 0.0
    #: The convolution whose kernel also computes this one, if it has none of its own. That report
    #: then has all but the multiply-adds of both.
    part_of: str = ""
    chosen_by: ChosenBy = "default"
    #: On a CPU that emulates the multiply-adds of 8-bit integers: ``VNNI``, or ``vectors`` of
    #: 32-bit ones. Else empty.
    emulated_by: str = ""
    #: What its kernel multiplies, in PTX's words: ``f16``, ``u8 x s8`` and the like; "" if TVM
    #: computes it.
    multiplies: str = ""
    #: Why a layer of a quantised model multiplies floats; empty if it multiplies integers, and in
    #: other models.
    floats_because: str = ""
    #: What was done to keep the range of fp16, such as ``x times 2**27``; empty where nothing was.
    kept: tuple[str, ...] = ()
    #: By family that declines: its reason.
    declined: dict[str, str] = field(default_factory=dict)

    @property
    def waste(self) -> float:
        """Share of the executed multiply-adds that is padding, 0 to 1."""
        return 1 - self.useful_macs / self.padded_macs if self.padded_macs else 0.0

    @property
    def in_int8(self) -> bool:
        """True if its kernel multiplies 8-bit integers."""
        return self.multiplies in INTEGERS


@dataclass(frozen=True)
class ConversionReport:
    """A copy of a tensor to another order of axes, or dtype, that is left after all passes."""

    #: ``NCHW -> NHWC`` and the like, or ``axes (0, 2, 1)`` of another transpose; ``int8 ->
    #: float16`` and the like.
    conversion: str
    #: Shape that is read.
    shape: tuple[int, ...]
    #: The reason for it.
    cause: str
    #: Bytes read and written, and their estimated time.
    moved_bytes: int
    us: float


@dataclass(frozen=True)
class KernelReport:
    """A kernel of TVM's, which compute everything but the convolutions."""

    #: Name in the code, shared by equal kernels.
    name: str
    #: Names of the ONNX nodes that it computes; none if it only converts a tensor.
    nodes: tuple[str, ...]
    #: Every operand and result once, in bytes.
    moved_bytes: int
    #: Time to move them, at least that of the shortest kernel; 0 if unknown.
    us: float


@dataclass(frozen=True)
class MachineReport:
    """The machine that a report's microseconds are for.

    Without a name they are all 0: there is no model of the machine.
    """

    #: Name such as ``H200``, or LLVM's name of a CPU.
    name: str = ""
    #: Source of its rates.
    source: str = ""
    #: Architecture of the GPU whose costs the user asked for, if a CPU runs the network.
    asked_for: str = ""

    @property
    def title(self) -> str:
        """Text such as ``as on an H200 (sm_90a)``, if the user asked for it; else empty."""
        if not self.asked_for:
            return ""
        article = "an" if self.name[0] in "AHLR" else "a"
        return f"as on {article} {self.name} ({self.asked_for})"

    def __str__(self) -> str:
        return f"{self.title or self.name}: {self.source}" if self.name else ""


@dataclass(frozen=True)
class BuildReport(Report):
    """One build. ``str()`` is a table; `to_json` and `from_json` are inverse.

    For buckets it is the report of the largest, with those of the others in `smaller`.
    """

    target: str
    arch: str
    operators: tuple[OperatorReport, ...]
    convs: tuple[ConvReport, ...]
    #: Count by operator that cannot be built; only `inspect` has any.
    unsupported: dict[str, int]
    #: Bytes of the activations as planned, and their lower bound: the largest sum of those live at
    #: once. `tvmconv.passes.memory.plan_memory.MemoryUse` defines what counts; 0 before a build.
    peak_activation_bytes: int = 0
    activation_bound_bytes: int = 0
    #: Bytes of the outputs, which belong to the caller and are not planned.
    output_bytes: int = 0
    #: Bytes of the packed weights at this batch.
    weight_bytes: int = 0
    #: Seconds, including what buckets share, if this is the largest.
    build_seconds: float = 0.0
    #: First dimension of the first input: images per run.
    batch: int = 1
    #: Shape of every input as it is fed, by name.
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    #: Bytes of the weights of all buckets, equal arrays once.
    stored_weight_bytes: int = 0
    #: Reports of the smaller buckets, the smallest first.
    smaller: tuple[BuildReport, ...] = ()
    #: Every conversion of layouts that is left.
    conversions: tuple[ConversionReport, ...] = ()
    #: Every kernel that only quantises or dequantises. It may convert a layout as well.
    quantising: tuple[ConversionReport, ...] = ()
    #: True if other shapes are compiled when they are first fed; then there may be no convolutions.
    any_shape: bool = False
    #: The machine that costs and floors are for.
    machine: MachineReport = MachineReport()
    #: Kernels of TVM's, in order. Conversions are among them.
    kernels: tuple[KernelReport, ...] = ()
    #: Where onnxruntime runs some operators: the parts in order, and what crosses between them.
    parts: tuple[PartReport, ...] = ()
    crossings: tuple[CrossingReport, ...] = ()

    @property
    def bucket_texts(self) -> list[str]:
        """Every bucket as text, the largest last: its batch, or its shapes if those differ too."""
        return bucket_texts((one.batch, one.shapes) for one in (*self.smaller, self))

    @property
    def convolutions(self) -> tuple[ConvReport, ...]:
        """The entries of `convs` that ONNX calls convolutions."""
        return tuple(conv for conv in self.convs if conv.operator in CONVOLUTIONS)

    @property
    def tensorized(self) -> int:
        """Number of convolutions on tensor cores, or on llvm on their emulation."""
        return sum(conv.tensor_core for conv in self.convolutions)

    @property
    def in_int8(self) -> int:
        """Number of convolutions whose kernels multiply 8-bit integers."""
        return sum(conv.in_int8 for conv in self.convolutions)

    @property
    def useful_macs(self) -> int:
        """Multiply-adds by the definition."""
        return sum(conv.useful_macs for conv in self.convs)

    @property
    def padded_macs(self) -> int:
        """Multiply-adds that kernels execute, padding included."""
        return sum(conv.padded_macs for conv in self.convs)

    @property
    def waste(self) -> float:
        """Share of all executed multiply-adds that is padding, 0 to 1."""
        return 1 - self.useful_macs / self.padded_macs if self.padded_macs else 0.0

    @property
    def cost_us(self) -> float:
        """Estimated microseconds of all kernels in sequence, TVM's too."""
        return sum(conv.cost_us for conv in self.convs) + self.kernel_us

    @property
    def kernel_us(self) -> float:
        """The part of `cost_us` of TVM's kernels."""
        return sum(one.us for one in self.kernels)

    @property
    def conversion_us(self) -> float:
        """The part of `kernel_us` of conversions."""
        return sum(one.us for one in self.conversions)

    @property
    def floor_us(self) -> float:
        """Floor of all layers in microseconds, on tensor cores and without padding."""
        return sum(conv.floor_us for conv in self.convs)

    @property
    def tensor_core_macs(self) -> int:
        """The part of `useful_macs` on tensor cores, or on llvm on their emulation."""
        return sum(conv.useful_macs for conv in self.convs if conv.tensor_core)

    @property
    def suited(self) -> tuple[ConvReport, ...]:
        """The convolutions that suit tensor cores: `SUITED_CHANNELS` per group or more."""
        return tuple(one for one in self.convolutions if one.group_channels >= SUITED_CHANNELS)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by their names."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BuildReport:
        """Returns the report of `to_json`, also from before some fields existed.

        Raises ``TypeError`` or ``KeyError`` for other data.
        """
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data or _required(f)}
        nested: dict[str, Callable[[Any], Any]] = {
            "operators": lambda item: OperatorReport(**item),
            "convs": lambda item: ConvReport(
                **_tuples(item, "workloads", "traits", "kernels", "kept")
            ),
            "conversions": lambda item: ConversionReport(**_tuples(item, "shape")),
            "quantising": lambda item: ConversionReport(**_tuples(item, "shape")),
            "kernels": lambda item: KernelReport(**_tuples(item, "nodes")),
            "smaller": cls.from_json,
            "parts": part_from_json,
            "crossings": lambda item: CrossingReport(**_tuples(item, "shape", "readers")),
        }
        for name in nested.keys() & known.keys():
            known[name] = tuple(map(nested[name], known[name]))
        if "shapes" in known:
            known["shapes"] = {name: tuple(shape) for name, shape in known["shapes"].items()}
        if "machine" in known:
            known["machine"] = MachineReport(**known["machine"])
        return cls(**known)


def _required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _tuples(item: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns the item with lists, as JSON has them, as tuples."""
    return {**item, **{name: tuple(item[name]) for name in names if name in item}}
