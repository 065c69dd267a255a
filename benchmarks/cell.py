"""The results of `bench` for one network at one batch size, and their table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks import int8
from benchmarks.int8 import Int8
from tvmconv.reports.data.comparison import CompareReport
from tvmconv.reports.data.latency import LatencyReport, Timing
from tvmconv.reports.render.tables import table

ONNXRUNTIME = "onnxruntime, CPU"
#: Share of the processors used by other programs above which the report warns.
BUSY = 0.05


@dataclass(frozen=True)
class Cell:
    """The results for one network at one batch size."""

    model: str
    batch: int
    #: Duration of the build in seconds, on the machine that built.
    build_s: float
    #: Convolutions on tensor cores (llvm: on their emulation), and all.
    tensorized: int
    convolutions: int
    comparison: CompareReport
    #: None if the network failed the comparison and was not timed.
    latency: LatencyReport | None
    #: Times of other programs, by name.
    peers: dict[str, Timing]
    #: Share of the processors that other programs used just before the timing, 0 to 1.
    busy: float | None
    #: On a GPU: our time with the model's own inputs.
    as_model: Timing | None = None
    #: Floor of the machine in microseconds: per layer the larger of its arithmetic at the fastest
    #: instruction's rate and its bytes at the memory bandwidth.
    floor_us: float = 0.0
    #: The same network in int8, if it was asked for.
    int8: Int8 | None = None

    @property
    def ratio(self) -> float | None:
        """Our median over onnxruntime's on the CPU."""
        if self.latency is None or ONNXRUNTIME not in self.peers:
            return None
        return self.latency.compute.median_ms / self.peers[ONNXRUNTIME].median_ms

    @property
    def floor_share(self) -> float | None:
        """Floor over our median, 0 to 1; None on a CPU, whose floors are rough."""
        if self.latency is None or self.latency.target != "cuda":
            return None
        return self.floor_us / 1e3 / self.latency.compute.median_ms

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by their names here, and the ratios."""
        return {
            **vars(self),
            "floor_share": self.floor_share,
            "comparison": self.comparison.to_json(),
            "latency": self.latency and self.latency.to_json(),
            "as_model": self.as_model and vars(self.as_model),
            "peers": {name: vars(timing) for name, timing in self.peers.items()},
            "ratio_to_onnxruntime": self.ratio,
            "int8": self.int8 and self.int8.to_json(),
        }

    def __str__(self) -> str:
        lines = [f"{self.model}, {self.latency or self.comparison}"]
        if self.busy and self.busy > BUSY:
            lines.append(f"Warning: other programs took {self.busy:.0%} of the processors")
        if self.int8:
            lines.append(f"in int8, {self.int8.latency or self.int8.comparison}")
        return "\n".join(lines)

    def medians(self) -> dict[str, float]:
        """Returns every program's median in ms, ours first."""
        ours = {"tvmconv": self.latency.compute.median_ms} if self.latency else {}
        if self.int8 and self.int8.latency:
            ours["tvmconv, int8"] = self.int8.latency.compute.median_ms
        return {**ours, **{name: timing.median_ms for name, timing in self.peers.items()}}


def report(cells: list[Cell]) -> str:
    """Returns the table of all cells; times are medians in ms, ratios ours over theirs.

    Networks that were measured in int8 have another table for it.
    """
    others = list(dict.fromkeys(name for cell in cells for name in cell.peers))
    # On a GPU: time of the host per run, and of the GPU with the model's own inputs.
    cuda = any(cell.latency and cell.latency.target == "cuda" for cell in cells)
    on_gpu = ["host us", "ms as fp32 NCHW", "of the floor"] if cuda else []
    header = ["network", "batch", "ms", "images/s", *on_gpu]
    header += [text for name in others for text in (f"{name} ms", "ours / it")]
    rows = [[*header, "relative l2", "tensorized", "build s"]]
    for cell in cells:
        ours = cell.latency.compute.median_ms if cell.latency else None
        row = [cell.model, str(cell.batch)]
        row += (
            [f"{ours:.4g}", f"{cell.latency.throughput:.4g}"] if cell.latency else ["refused", ""]
        )
        row += _on_gpu(cell)[: len(on_gpu)]
        for name in others:
            theirs = cell.peers[name].median_ms if name in cell.peers else None
            row.append(f"{theirs:.4g}" if theirs else "")
            row.append(f"{ours / theirs:.2f}" if ours and theirs else "")
        row.append(f"{cell.comparison.relative_l2:.1e}")
        rows.append([*row, f"{cell.tensorized} of {cell.convolutions}", f"{cell.build_s:.1f}"])
    text = table(rows, right=range(1, len(rows[0])))
    quantised = [(cell.model, cell.batch, cell.latency, cell.int8) for cell in cells if cell.int8]
    return f"{text}\n\n{int8.report(quantised)}" if quantised else text


def _on_gpu(cell: Cell) -> list[str]:
    enqueue = cell.latency.enqueue if cell.latency else None
    host = f"{enqueue.median_ms * 1e3:.3g}" if enqueue else ""
    as_model = f"{cell.as_model.median_ms:.4g}" if cell.as_model else ""
    return [host, as_model, f"{cell.floor_share:.0%}" if cell.floor_share else ""]
