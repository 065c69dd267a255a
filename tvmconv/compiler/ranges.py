"""The ranges of a network's activations on the feeds that a build is calibrated with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import tvm
from tvm import relax

from tvmconv.onnx.model import inputs, specs
from tvmconv.onnx.ranges.feeds import Feed, checked
from tvmconv.onnx.ranges.measure import measure
from tvmconv.passes.regions.region import Region
from tvmconv.reports.collect.nodes import node_names

#: One run of the network, or several.
Calibrate = Feed | Iterable[Feed]


def seen_on(model: onnx.ModelProto, feeds: Calibrate | None) -> dict[str, float]:
    """Returns the largest magnitude of every activation on the feeds, by name; none without feeds.

    model: simplified. Raises `FeedError` for feeds that do not fit it, or on which an activation is
    not finite, and `ModelError` for a model that onnxruntime can't run.
    """
    if feeds is None:
        return {}
    several = [feeds] if isinstance(feeds, Mapping | np.ndarray) else feeds
    fed = checked(several, specs(inputs(model)))
    return {name: one.largest for name, one in measure(model, fed).items()}


def by_variable(
    mod: tvm.IRModule,
    simple: onnx.ModelProto,
    regions: Mapping[relax.Var, Region],
    seen: Mapping[str, float],
) -> dict[relax.Var, float]:
    """Returns what was seen by the variables of the planned graph, as far as those are tensors of
    the model: results of nodes, and what convolutions read."""
    if not seen:
        return {}
    nodes = {node.name: node for node in simple.graph.node}
    found = {
        var: seen[output]
        for var, name in node_names(mod, simple).items()
        for output in nodes[name].output[:1]
        if output in seen
    }
    for region in regions.values():
        read = nodes[region.name].input[0] if region.name in nodes else ""
        if isinstance(region.x, relax.Var) and read in seen:
            found[region.x] = seen[read]
    return found
