"""The report of a network in parts, from those of its compiled parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from tvmconv.onnx.prepare import Graph
from tvmconv.parts.cut import Part
from tvmconv.reports.collect.fates import fates_of_original
from tvmconv.reports.data.build import BuildReport
from tvmconv.reports.data.parts import CrossingReport, FallbackReport, PartReport
from tvmconv.specs import batch_of

#: The fate of a node, before the reason.
IN_ONNXRUNTIME = "in onnxruntime"


def merged(
    graph: Graph,
    parts: Sequence[Part],
    graphs: Sequence[Graph],
    reports: Sequence[BuildReport],
) -> BuildReport:
    """The whole network's report.

    graphs: of `part_graphs`. reports: one for each compiled part, in order. Layers, kernels and
    outputs are those of all parts; activations those of the part that needs most. Weights are left
    for the caller to count, as parts share them.
    """
    fates = {one.name: one.fate for report in reports for one in report.operators}
    for part in parts:
        fates |= {one.name: f"{IN_ONNXRUNTIME}: {one.reason}" for one in part.reasons}
    largest = max(reports, key=lambda one: one.peak_activation_bytes)
    return replace(
        largest,
        operators=fates_of_original(graph.original, graph.simple, fates),
        convs=tuple(chain.from_iterable(one.convs for one in reports)),
        conversions=tuple(chain.from_iterable(one.conversions for one in reports)),
        quantising=tuple(chain.from_iterable(one.quantising for one in reports)),
        kernels=tuple(chain.from_iterable(one.kernels for one in reports)),
        output_bytes=sum(one.output_bytes for one in reports),
        batch=batch_of(graph.inputs),
        parts=tuple(map(_part, parts)),
        crossings=tuple(_crossings(graphs)),
    )


def _part(part: Part) -> PartReport:
    told = (FallbackReport(one.name, one.operator, one.reason) for one in part.reasons)
    return PartReport(part.side, len(part.model.graph.node), tuple(told))


def _crossings(graphs: Sequence[Graph]) -> list[CrossingReport]:
    found = []
    for source, one in enumerate(graphs):
        for spec in one.outputs:
            readers = [
                at + 1
                for at, other in enumerate(graphs)
                if spec.name in {read.name for read in other.inputs}
            ]
            if readers:
                told = (spec.name, spec.dtype, spec.shape, source + 1, tuple(readers))
                found.append(CrossingReport(*told))
    return found
