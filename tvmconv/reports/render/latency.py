"""Text of a `LatencyReport`."""

from __future__ import annotations

from tvmconv.reports.data.latency import LatencyReport, Timing
from tvmconv.reports.data.report import as_text
from tvmconv.reports.render.layer_times import layer_table
from tvmconv.reports.render.tables import table
from tvmconv.specs import bucket_texts

HEADER = ["ms", "min", "mean", "median", "p90", "p95", "p99", "var.", "runs"]


@as_text.register
def latency_text(report: LatencyReport) -> str:
    """Returns the tables of all buckets, the smallest first."""
    buckets = (*report.smaller, report)
    texts = bucket_texts((one.batch, one.shapes) for one in buckets)
    return "\n\n".join(_of_bucket(*one) for one in zip(buckets, texts, strict=True))


def _of_bucket(report: LatencyReport, text: str) -> str:
    """text: of `bucket_texts`."""
    place = f"{report.target} {report.arch or ''}".strip()
    place += f", {report.threads} threads" if report.threads else ""
    rows = [HEADER, ["compute", *_cells(report.compute)]]
    if report.enqueue:
        rows.append(["enqueue", *_cells(report.enqueue)])
    rows.append(["host to device", *_cells(report.host_to_device)])
    rows.append(["device to host", *_cells(report.device_to_host)])
    sizes = "" if text == str(report.batch) else f" ({text})"
    lines = [
        f"batch {report.batch}{sizes} on {place}: {report.compute.median_ms:.4g} ms, "
        f"{report.throughput:.4g} images/s (warm-up {report.warmup_ms:.0f} ms, "
        f"{report.warmup_runs} runs)",
        table(rows, right=range(1, len(HEADER))),
    ]
    if report.relative_l2 is not None:
        lines.append(f"checked: relative l2 error {report.relative_l2:.2e}")
    lines += [f"Warning: {warning}" for warning in report.warnings]
    return "\n".join(lines + (["", layer_table(report.layers)] if report.layers else []))


def _cells(timing: Timing) -> list[str]:
    """Returns a row of the table whose header is `HEADER`."""
    columns = (
        *(timing.min_ms, timing.mean_ms, timing.median_ms),
        *(timing.p90_ms, timing.p95_ms, timing.p99_ms),
    )
    return [*(f"{ms:.4g}" for ms in columns), f"{timing.variation:.1%}", str(timing.runs)]
