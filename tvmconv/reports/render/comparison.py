"""Text of a `CompareReport`."""

from __future__ import annotations

import math

from tvmconv.reports.data.comparison import CompareReport, LostRange
from tvmconv.reports.data.report import as_text
from tvmconv.reports.render.tables import table
from tvmconv.specs import bucket_texts, shapes_text

#: Where something is lost.
CALIBRATE = (
    "Hint: build with calibrate=feeds, or --calibrate DIR, on feeds like these: activations are "
    "scaled by what is seen"
)


@as_text.register
def comparison_text(report: CompareReport) -> str:
    """Returns a row for each output, the notes, then what leaves the range of fp16."""
    rows = [["output", "shape", "relative l2", "max abs", "cosine", "finite"]]
    # An output may have one shape whatever is fed.
    fed = [shapes_text(out.fed) for out in report.outputs]
    several = len({*bucket_texts((0, out.fed) for out in report.outputs)} - {"0"}) > 1
    for out in report.outputs:
        relative = "none" if out.relative_l2 is None else f"{out.relative_l2:.2e}"
        cosine = "none" if out.cosine is None else f"{out.cosine:.7f}"
        shape, finite = "x".join(map(str, out.shape)), "yes" if out.finite else "NO"
        rows.append([out.name, shape, relative, f"{out.max_abs:.2e}", cosine, finite])
    notes = [f"Note: {out.name}: {out.note}" for out in report.outputs if out.note]
    if report.lost:
        notes += [*map(_lost, report.lost), CALIBRATE]
    head = f"{report.target} against {report.reference}"
    if several:
        rows = [["fed", *rows[0]], *([one, *row] for one, row in zip(fed, rows[1:], strict=True))]
    right = range(2 + several, 6 + several)
    return "\n".join([head, table(rows, right=right), *notes])


def _lost(one: LostRange) -> str:
    """Returns the layer, the largest magnitude, and what that means in fp16."""
    what = f"Range: {one.layer} {one.does} activations of up to {one.largest:.3g} in magnitude"
    if math.isinf(one.lost):
        return f"{what}, past the 65504 of fp16"
    return f"{what}, {one.lost:.1%} off when rounded to fp16"
