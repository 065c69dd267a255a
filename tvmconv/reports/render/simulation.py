"""Text of a `SimulationReport`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvmconv.reports.data.report import as_text
from tvmconv.reports.data.simulation import SimulatedLayer, SimulationReport
from tvmconv.reports.render.tables import figures


@as_text.register
def simulation_text(report: SimulationReport) -> str:
    """Returns the errors of the outputs, then the instructions and cycles of the layers."""
    return "\n\n".join([_head(report), _outputs(report), _layers(report)])


def _head(report: SimulationReport) -> str:
    kept = "fp32" if report.activations == "float32" else "fp16"
    plural = "s" if report.images != 1 else ""
    return (
        f"simulated: {report.numerics}, {kept} activations, {report.images} image{plural}, "
        f"against {report.reference}"
    )


def _outputs(report: SimulationReport) -> str:
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
            for one in report.outputs
        ),
    ]
    notes = (
        f"\nNote: {one.name}: the reference is all zeros, so there is no relative error"
        for one in report.outputs
        if not one.reference_norm
    )
    return figures(rows, text=("output",)) + "".join(notes)


def _layers(report: SimulationReport) -> str:
    rows = [["layer", "shape", "m", "n", "k", "WMMA", "HMMA", "cycles, 1 SM", "80 SMs"]]
    for one in report.layers:
        sizes = map(str, (one.rows, one.columns, 16 * one.steps))
        rows.append([one.name, one.shape, *sizes, *_counts([one])])
    rows.append(["all", "", "", "", "", *_counts(report.layers)])
    text = figures(rows, text=("layer", "shape"))
    if report.layers and report.layers[0].sm_cycles is not None:
        text += "\ncycles: of the tensor cores alone, 8 warps each; no loads, no stores"
    if report.others:
        text += f"\nas on llvm, not on tensor cores: {', '.join(report.others)}"
    return text


def _counts(layers: Sequence[SimulatedLayer]) -> list[str]:
    names = ("wmmas", "instructions", "sm_cycles", "chip_cycles")
    columns = [[getattr(one, name) for one in layers] for name in names]
    return ["-" if None in column else str(sum(column)) for column in columns]


def _percent(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f} %"
