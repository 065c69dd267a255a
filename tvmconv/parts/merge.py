"""The report of a network in parts, from those of its compiled parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from tvmconv.onnx.prepare import Graph
from tvmconv.parts.cut import Part
from tvmconv.reports.collect.fates import fates_of_original
from tvmconv.reports.data.build import BuildReport
from tvmconv.reports.data.parts import CrossingReport, PartReport
from tvmconv.specs import batch_of, shapes_of

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
        shapes=shapes_of(graph.inputs),
        parts=tuple(PartReport(one.side, len(one.model.graph.node), one.reasons) for one in parts),
        crossings=tuple(_crossings(parts, graphs, largest.target == "cuda")),
    )


def _crossings(
    parts: Sequence[Part], graphs: Sequence[Graph], on_gpu: bool
) -> list[CrossingReport]:
    """on_gpu: whether compiled parts run on a GPU; onnxruntime's are fed from the host."""
    found = []
    for source, one in enumerate(graphs):
        for spec in one.outputs:
            readers = [
                at + 1
                for at, other in enumerate(graphs)
                if spec.name in {read.name for read in other.inputs}
            ]
            if readers:
                side = parts[source].side
                copies = on_gpu * sum(parts[at - 1].side != side for at in readers)
                told = (spec.name, spec.dtype, spec.shape, source + 1, tuple(readers), copies)
                found.append(CrossingReport(*told))
    return found
