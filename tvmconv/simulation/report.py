"""What `simulate` gives: how far a simulated network is from onnxruntime, and what it cost."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tvmconv.reports.comparison import finite_or_none
from tvmconv.reports.tables import figures


@dataclass(frozen=True)
class OutputError:
    """One output's. Norms and absolute errors are means over images; `f_1` and `f_2` percent."""

    name: str
    shape: tuple[int, ...]
    #: l2, of onnxruntime's output and of the simulated one.
    reference_norm: float
    simulated_norm: float
    #: Of the difference: ||x - x'||_1 and ||x - x'||_2.
    absolute_1: float
    absolute_2: float
    #: F_n of `tvmconv.simulation.simulate`; NaN where the reference is all zeros.
    f_1: float
    f_2: float


@dataclass(frozen=True)
class SimulatedLayer:
    """A convolution or matrix product, as the tensor core sees it: of one image."""

    name: str
    shape: str
    #: Of the product, filled up to whole instructions; of all stride phases and groups.
    rows: int
    columns: int
    #: WMMAs that one tile of 16 x 16 takes, one after the other.
    steps: int
    wmmas: int
    #: HMMA issued; None where the numerics are no chip's.
    instructions: int | None
    #: Of the tensor cores alone: no loads, no stores. On one multiprocessor of a V100, and on all
    #: 80; None for other numerics, whose cycles nobody has published.
    sm_cycles: int | None
    chip_cycles: int | None


@dataclass(frozen=True)
class SimulationReport:
    """``print(report)`` is two tables; `to_json` gives the fields."""

    numerics: str
    activations: str
    reference: str
    images: int
    outputs: tuple[OutputError, ...]
    layers: tuple[SimulatedLayer, ...]
    #: Convolutions that are not on tensor cores, by name: they ran as on llvm.
    others: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as they are called here. JSON has no NaN or infinity: those become None."""
        plain = asdict(self)
        return {**plain, "outputs": [finite_or_none(output) for output in plain["outputs"]]}

    def __str__(self) -> str:
        return "\n\n".join([self._head(), self._outputs(), self._layers()])

    def _head(self) -> str:
        kept = "fp32" if self.activations == "float32" else "fp16"
        plural = "s" if self.images != 1 else ""
        return (
            f"simulated: {self.numerics}, {kept} activations, {self.images} image{plural}, "
            f"against {self.reference}"
        )

    def _outputs(self) -> str:
        rows = [
            ["output", "l2 norm", "simulated", "error l1", "error l2", "F_1", "F_2"],
            *(
                [
                    one.name,
                    f"{one.reference_norm:.6g}",
                    f"{one.simulated_norm:.6g}",
                    f"{one.absolute_1:.3g}",
                    f"{one.absolute_2:.3g}",
                    _percent(one.f_1),
                    _percent(one.f_2),
                ]
                for one in self.outputs
            ),
        ]
        notes = (
            f"\nNote: {one.name}: the reference is all zeros, so there is no relative error"
            for one in self.outputs
            if not one.reference_norm
        )
        return figures(rows, text=("output",)) + "".join(notes)

    def _layers(self) -> str:
        rows = [["layer", "shape", "m", "n", "k", "WMMA", "HMMA", "cycles, 1 SM", "80 SMs"]]
        for one in self.layers:
            sizes = map(str, (one.rows, one.columns, 16 * one.steps))
            rows.append([one.name, one.shape, *sizes, *_counts([one])])
        rows.append(["all", "", "", "", "", *_counts(self.layers)])
        text = figures(rows, text=("layer", "shape"))
        if self.layers and self.layers[0].sm_cycles is not None:
            text += "\ncycles: of the tensor cores alone, 8 warps each; no loads, no stores"
        if self.others:
            text += f"\nas on llvm, not on tensor cores: {', '.join(self.others)}"
        return text


def _counts(layers: Any) -> list[str]:
    names = ("wmmas", "instructions", "sm_cycles", "chip_cycles")
    columns = [[getattr(one, name) for one in layers] for name in names]
    return ["-" if None in column else str(sum(column)) for column in columns]


def _percent(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f} %"
