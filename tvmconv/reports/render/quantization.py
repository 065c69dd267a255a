"""Text of a `QuantizationReport`."""

from __future__ import annotations

import math

from tvmconv.reports.data.quantization import QuantizationReport, QuantizedLayer
from tvmconv.reports.data.report import as_text
from tvmconv.reports.render.tables import figures, microseconds, percent

HEADER = ("layer", "kind", "x, weight", "GMAC", "SNR dB", "alone", "us", "runs in", "reason")


@as_text.register
def quantization_text(report: QuantizationReport) -> str:
    """Returns what was done, a row for each layer, then the errors of the outputs."""
    text = ("layer", "kind", "x, weight", "runs in", "reason")
    header = list(HEADER)
    rows = [_row(layer) for layer in report.layers]
    if all(layer.alone is None for layer in report.layers):
        at = header.index("alone")
        del header[at]
        rows = [[*row[:at], *row[at + 1 :]] for row in rows]
    lines = [_head(report), figures([header, *rows], text), *_meanings(report)]
    for output in report.outputs:
        lines.append(
            f"output {output.name}: relative l2 {output.relative_l2:.2e}, "
            f"{_decibels(output.snr_db)} dB"
        )
    if report.max_error is not None:
        lines.append(f"the bound on the error is {report.max_error:g}")
    return "\n".join(lines)


def _head(report: QuantizationReport) -> str:
    macs = sum(layer.macs for layer in report.layers)
    share = sum(layer.macs for layer in report.layers if layer.decision == "int8")
    feeds = "1 feed" if report.feeds == 1 else f"{report.feeds} feeds"
    return (
        f"{len(report.quantized)} of {len(report.layers)} layers in int8, "
        f"{percent(share, macs)} of the multiply-adds; {report.method} over {feeds}"
    )


def _meanings(report: QuantizationReport) -> list[str]:
    found = [
        "SNR: of the layer's output against the float model's, all layers before it included",
        f"us: saved by int8, or given up, by the layer's floor on {report.machine}; "
        f"in total saved {microseconds(report.saved_us)}",
    ]
    if any(layer.alone is not None for layer in report.layers):
        found.insert(1, "alone: relative l2 of the outputs with that layer alone in int8")
    return found


def _row(layer: QuantizedLayer) -> list[str]:
    return [
        layer.name,
        layer.kind,
        layer.shape,
        f"{layer.macs / 1e9:.3g}",
        _decibels(layer.snr_db),
        "-" if layer.alone is None else f"{layer.alone:.1e}",
        microseconds(layer.saved_us),
        layer.decision,
        layer.reason,
    ]


def _decibels(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "exact" if value > 0 else "none"
