"""What became of a model: `BuildReport`, made by a build, kept in the artifact, readable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class OperatorReport:
    """What became of one node of the ONNX graph."""

    name: str
    operator: str
    fate: str


@dataclass(frozen=True)
class ConvReport:
    """What was decided about one convolution, or product with a constant matrix."""

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
    #: Why this family (what the ones before it said), and why this layout.
    why_family: str
    why_layout: str
    useful_macs: int
    padded_macs: int
    #: What the choice was estimated to take, and what limits it: arithmetic or memory. What it
    #: would take at least, with no padding. What the next best family was estimated to take.
    cost_us: float = 0.0
    limit: str = ""
    floor_us: float = 0.0
    runner_up: str = ""

    @property
    def waste(self) -> float:
        """Share of the multiply-adds carried out that padding asked for, 0 to 1."""
        return 1 - self.useful_macs / self.padded_macs


@dataclass(frozen=True)
class BuildReport:
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
    #: those live at once. `tvmconv.passes.plan_memory.MemoryUse` says what counts; 0 before a
    #: build.
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

    @property
    def convolutions(self) -> tuple[ConvReport, ...]:
        """Those of `convs` that ONNX calls so."""
        return tuple(conv for conv in self.convs if conv.operator in CONVOLUTIONS)

    @property
    def tensorized(self) -> int:
        """Convolutions on tensor cores, on llvm their emulation."""
        return sum(conv.tensor_core for conv in self.convolutions)

    @property
    def useful_macs(self) -> int:
        return sum(conv.useful_macs for conv in self.convs)

    @property
    def padded_macs(self) -> int:
        return sum(conv.padded_macs for conv in self.convs)

    @property
    def waste(self) -> float:
        """Share of all multiply-adds carried out that padding asked for, 0 to 1."""
        return 1 - self.useful_macs / self.padded_macs if self.padded_macs else 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BuildReport:
        """Raises ``TypeError`` or ``KeyError`` where `data` is not what `to_json` gives."""
        known = {f.name: data[f.name] for f in fields(cls)}
        known["operators"] = tuple(OperatorReport(**item) for item in data["operators"])
        known["convs"] = tuple(
            ConvReport(**{**item, "workloads": tuple(item["workloads"])}) for item in data["convs"]
        )
        known["smaller"] = tuple(cls.from_json(item) for item in data["smaller"])
        return cls(**known)

    def __str__(self) -> str:
        parts = [self._headline()]
        if self.unsupported:
            listed = (f"{name} x{count}" for name, count in sorted(self.unsupported.items()))
            parts.append("can't be built: " + ", ".join(listed))
        if self.smaller:
            parts.append(self._bucket_table())
        if self.convs:
            parts.append(self._conv_table())
        if any(not conv.tensor_core for conv in self.convs):
            parts.append(self._reasons())
        if self.convs:
            parts.append(self._layout_reasons())
        if self.operators:
            parts.append(self._operator_summary())
        return "\n\n".join(parts)

    def _headline(self) -> str:
        target = self.target + (f" {self.arch}" if self.arch else "")
        target += f", bucket of {self.batch}" if self.smaller else ""
        text = f"{target}: {self.tensorized} of {len(self.convolutions)} convolutions"
        products = [conv for conv in self.convs if conv not in self.convolutions]
        if products:
            done = sum(conv.tensor_core for conv in products)
            text += f" and {done} of {len(products)} matrix products"
        text += " on tensor cores" + (" (emulated)" if self.target == "llvm" else "")
        if self.convs:
            text += (
                f", {self.useful_macs / 1e9:.2f} GMAC, {self.waste:.0%} of those done is padding"
            )
        if self.build_seconds:
            text += (
                f"\nbuilt in {self.build_seconds:.1f} s; "
                f"weights {self.weight_bytes / 2**20:.1f} MiB, "
                f"activations {self.peak_activation_bytes / 2**20:.1f} MiB"
            )
            if self.activation_bound_bytes:
                ratio = self.peak_activation_bytes / self.activation_bound_bytes
                live = self.activation_bound_bytes / 2**20
                text += f", {ratio:.2f} times the {live:.1f} MiB that are live at once"
            text += f"; outputs {self.output_bytes / 2**20:.1f} MiB"
        return text

    def _bucket_table(self) -> str:
        """What differs between buckets; the rest of the report is about the largest."""
        buckets = (*self.smaller, self)
        rows = [["bucket", "tensorized", "GMAC", "pad"]]
        for one in buckets:
            tensorized = f"{one.tensorized} of {len(one.convolutions)}"
            macs = f"{one.useful_macs / 1e9:.2f}"
            rows.append([str(one.batch), tensorized, macs, f"{one.waste:.0%}"])
        if self.build_seconds:
            rows[0] += ["activations MiB", "weights MiB", "build s"]
            for row, one in zip(rows[1:], buckets, strict=True):
                sizes = (one.peak_activation_bytes, one.weight_bytes)
                row += [*(f"{size / 2**20:.1f}" for size in sizes), f"{one.build_seconds:.1f}"]
        text = table(rows, right=range(2, 7))
        if self.stored_weight_bytes:
            text += "\nweights of all buckets, equal ones once: "
            text += f"{self.stored_weight_bytes / 2**20:.1f} MiB"
        return text

    def _conv_table(self) -> str:
        header = ("convolution", "shape", "family", "config", "layouts", "epilogue", "MMAC", "pad")
        rows = [
            (
                conv.name,
                conv.shape,
                conv.family,
                conv.config,
                conv.out_layout
                if conv.in_layout == conv.out_layout
                else f"{conv.in_layout} -> {conv.out_layout}",
                conv.epilogue,
                f"{conv.useful_macs / 1e6:.1f}",
                f"{conv.waste:.0%}",
            )
            for conv in self.convs
        ]
        return table([header, *rows], right=(6, 7))

    def _reasons(self) -> str:
        counted = Counter(conv.why_family for conv in self.convs if not conv.tensor_core)
        lines = [f"  {count} x {reason}" for reason, count in counted.most_common()]
        return "not on tensor cores:\n" + "\n".join(lines)

    def _layout_reasons(self) -> str:
        counted = Counter((conv.out_layout, conv.why_layout) for conv in self.convs)
        lines = [f"  {n} x {layout}: {why}" for (layout, why), n in counted.most_common()]
        return "layouts of outputs:\n" + "\n".join(lines)

    def _operator_summary(self) -> str:
        counted = Counter((one.operator, _kind(one.fate)) for one in self.operators)
        rows = [(operator, str(count), fate) for (operator, fate), count in counted.items()]
        return table([("operator", "count", "what became of it"), *sorted(rows)], right=(1,))


def _kind(fate: str) -> str:
    """A fate without the name of the node it joined, so that like ones can be counted."""
    return fate.partition(": ")[0]


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows, the first a header, in columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
