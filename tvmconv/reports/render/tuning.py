"""Text of a `TuningReport`."""

from __future__ import annotations

from tvmconv.reports.data.report import as_text
from tvmconv.reports.data.tuning import TunedLayer, TuningReport
from tvmconv.reports.render.tables import figures, microseconds, percent

HEADER = (
    *("convolution", "x", "share", "space", "tried", "us", "model's us", "gain"),
    *("status", "choice"),
)


@as_text.register
def tuning_text(report: TuningReport) -> str:
    """Returns a row for each workload, the notes, then the sums."""
    text = ("convolution", "status", "choice")
    parts = [figures([HEADER, *map(_row, report.layers)], text)]
    parts += [f"{layer.shape}: {layer.note}" for layer in report.layers if layer.note]
    return "\n".join([*parts, _summary(report)])


def _summary(report: TuningReport) -> str:
    counted = dict.fromkeys(("measured", "recorded", "planned", "left out", "failed"), 0)
    for layer in report.layers:
        counted[layer.status] += 1
    said = ", ".join(f"{n} {status}" for status, n in counted.items() if n)
    place = report.device or f"{report.target} {report.arch}"
    took = "about " if counted["planned"] else ""
    text = f"{len(report.layers)} workloads on {place}: {said}; {took}{report.seconds:.0f} s"
    if counted["left out"]:
        text += "\nleft out: the budget does not suffice, or there is only one configuration"
    if report.us:
        text += (
            f"\nmeasured and recorded: in total {microseconds(report.us)} us; the model's choices "
            f"{microseconds(report.model_us)} us, {report.model_us / report.us:.2f} times as long"
        )
    return text + f"\nrecords: {report.records}"


def _row(layer: TunedLayer) -> tuple[str, ...]:
    return (
        layer.shape,
        str(layer.count),
        percent(layer.share, 1.0),
        str(layer.space),
        str(layer.candidates),
        microseconds(layer.us),
        microseconds(layer.model_us),
        f"{layer.gain:.2f}" if layer.gain else "-",
        layer.status,
        layer.choice,
    )
