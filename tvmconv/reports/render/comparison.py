"""Text of a `CompareReport`."""

from __future__ import annotations

from tvmconv.reports.data.comparison import CompareReport
from tvmconv.reports.data.report import as_text
from tvmconv.reports.render.tables import table


@as_text.register
def comparison_text(report: CompareReport) -> str:
    """Returns a row for each output, then the notes."""
    rows = [["output", "shape", "relative l2", "max abs", "cosine", "finite"]]
    for out in report.outputs:
        relative = "none" if out.relative_l2 is None else f"{out.relative_l2:.2e}"
        cosine = "none" if out.cosine is None else f"{out.cosine:.7f}"
        shape, finite = "x".join(map(str, out.shape)), "yes" if out.finite else "NO"
        rows.append([out.name, shape, relative, f"{out.max_abs:.2e}", cosine, finite])
    notes = [f"Note: {out.name}: {out.note}" for out in report.outputs if out.note]
    head = f"{report.target} against {report.reference}"
    return "\n".join([head, table(rows, right=range(2, 6)), *notes])
