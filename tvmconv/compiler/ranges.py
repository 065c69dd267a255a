"""The ranges of a network's activations on the feeds that a build is calibrated with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import tvm
from tvm import relax

from tvmconv.errors import FeedError
from tvmconv.images import read_images
from tvmconv.onnx.kinds import LAYERS
from tvmconv.onnx.model import inputs, specs
from tvmconv.onnx.ranges.feeds import Feed, checked
from tvmconv.onnx.ranges.measure import measure
from tvmconv.passes.regions.region import Region
from tvmconv.reports.collect.nodes import node_names
from tvmconv.specs import TensorSpec, batch_of

#: One run of the network, several, or a folder of images.
Calibrate = str | Path | Feed | Iterable[Feed]


@dataclass(frozen=True)
class Seen:
    """The result of `seen_on`, kept from an earlier build of the same model."""

    largest: Mapping[str, float]


def seen_on(model: onnx.ModelProto, feeds: Calibrate | Seen | None) -> dict[str, float]:
    """Returns the largest magnitude of every activation on the feeds, by name; none without feeds.

    model: simplified. Raises `FeedError` for feeds that do not fit it, or on which what a
    convolution reads is not finite, and `ModelError` for a model that onnxruntime can't run.
    """
    if feeds is None:
        return {}
    if isinstance(feeds, Seen):
        return dict(feeds.largest)
    wanted = specs(inputs(model))
    if isinstance(feeds, str | Path):
        feeds = _pictures(feeds, wanted)
    several = [feeds] if isinstance(feeds, Mapping | np.ndarray) else feeds
    fed = checked(several, wanted)
    found = {name: one.largest for name, one in measure(model, fed).items()}
    for node in (one for one in model.graph.node if one.op_type in LAYERS):
        if not math.isfinite(found.get(node.input[0], 0.0)):
            raise FeedError(
                f"{node.op_type} {node.name!r} reads infinity or NaN on the feeds",
                note=f"{node.input[0]!r} is not finite in fp32 already",
                hint="are the feeds scaled as the network was trained?",
            )
    return {name: largest for name, largest in found.items() if math.isfinite(largest)}


def _pictures(folder: str | Path, wanted: Sequence[TensorSpec]) -> Iterator[Feed]:
    """The images of a folder, each as often as the network takes images."""
    batch = batch_of(wanted)
    single = [replace(spec, shape=(1, *spec.shape[1:])) if spec.shape else spec for spec in wanted]
    for feed in read_images(folder, single):
        yield {
            name: np.repeat(one, batch, axis=0) if one.ndim else one for name, one in feed.items()
        }


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
