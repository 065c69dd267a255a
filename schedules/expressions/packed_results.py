"""The epilogue's formula for results of 8 bits, four adjacent channels at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm.ir import Expr

from schedules.conv.precision import RESULT_ZERO
from schedules.conv.workload import ConvWorkload
from schedules.expressions.compute import before_rounding
from schedules.threads import packed_bytes


def packed_results(
    w: ConvWorkload, totals: Sequence[Expr], given: Sequence[Mapping[str, Expr]]
) -> Expr:
    """Returns what `compute.finished` gives for four channels, as ``uint32``, the first in its
    lowest bits. totals, given: of each channel, as for `finished`; a residual also in fp32."""
    values = [before_rounding(w, *one) for one in zip(totals, given, strict=True)]
    zeros = [own[RESULT_ZERO] for own in given] if RESULT_ZERO in given[0] else None
    return packed_bytes.pack(values, w.precision.result, zeros)
