"""The way in: from the model that is given to the graphs that are compiled, one for each batch.

model -> read and checked -> quantised operators in one form -> shapes fixed at each batch
      -> operators checked -> simplified
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from tvmconv.errors import UnsupportedOperatorError
from tvmconv.onnx import frontend
from tvmconv.onnx.batches import Batch, Shapes, at_batches, is_buckets, require_independent
from tvmconv.onnx.branches import has_branches
from tvmconv.onnx.model import (
    Model,
    inputs,
    name_nodes,
    no_shape,
    open_dimensions,
    read,
    specs,
    without_shape,
)
from tvmconv.onnx.quantized.fed_numbers import Numbers, feed_numbers, find_numbers
from tvmconv.onnx.quantized.inner_form import to_qdq
from tvmconv.onnx.quantized.sink import sink
from tvmconv.onnx.sidecars.beside import with_sidecar
from tvmconv.onnx.supported import unsupported
from tvmconv.runtime.io_form import IoForm
from tvmconv.specs import TensorSpec


@dataclass(frozen=True)
class Graph:
    """The network at one batch."""

    #: The model as given, every shape fixed, every node with a name of its own; of a quantised one
    #: its form of QDQ (`tvmconv.onnx.quantized.inner_form`).
    original: onnx.ModelProto
    #: The same function in fewer nodes; the original where an operator of it can't be built.
    simple: onnx.ModelProto
    #: Inputs and outputs in the dtype and layout that the build was asked for.
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Prepared:
    """A model, ready to be compiled."""

    #: One for each batch, the smallest first.
    graphs: tuple[Graph, ...]
    #: Operators that can't be built, with the reason, and how often each occurs.
    unsupported: Mapping[str, int]
    #: True if it was asked for with a list of batches, so that it runs on any number of images.
    any_batch: bool

    def require_supported(self) -> None:
        """Raises `UnsupportedOperatorError` that lists `unsupported`, unless that is empty."""
        if self.unsupported:
            listed = ", ".join(f"{name} x{n}" for name, n in sorted(self.unsupported.items()))
            raise UnsupportedOperatorError(
                f"the model uses operators that can't be built: {listed}",
                hint="build the part without them: onnx.utils.extract_model cuts a model in two",
            )


def prepare(
    model: Model,
    batch: Batch,
    shapes: Shapes,
    form: IoForm,
    quantization: str | Path | None = None,
) -> Prepared:
    """Reads a model and brings it to the form that is compiled, at every batch.

    The parameters are those of `tvmconv.build`. Operators that can't be built are listed, not
    raised; with some of them the graphs are not simplified further.

    Raises `ModelError` for a model that can't be read, that onnxruntime does not take, or whose
    images affect each other if it is for several batches; `ShapeError` for shapes that are left
    open or do not fit; `QuantizationError` for scales, zero points and axes that can't be right,
    and for inputs that can't be fed as `form` says.
    """
    proto = read(model)
    if quantization is not None:
        proto = with_sidecar(proto, quantization)
    # What is in a branch is brought to one form when it is known that the branch is taken.
    branches = has_branches(proto.graph)
    proto = proto if branches else to_qdq(proto)
    fixed = at_batches(proto, batch, shapes)
    fixed = tuple(map(to_qdq, fixed)) if branches else fixed
    numbers = find_numbers(fixed[-1], str(form.dtype)) if form.eight_bits else {}
    graphs = [_graph(original, form, numbers) for original in fixed]
    missing = unsupported(graphs[-1].original)
    for i in reversed(range(len(graphs))):  # the largest first: it is the likeliest to fail
        if not missing:
            fed = feed_numbers(graphs[i].original, numbers)
            simple = sink(frontend.simplify(frontend.widen(fed)))
            made = _outputs(graphs[i].original, simple)
            graphs[i] = replace(graphs[i], simple=simple, outputs=form.outputs(specs(made)))
            missing = unsupported(simple, folded=True)
    if is_buckets(batch) and not missing:
        require_independent(proto, batch, shapes)
    return Prepared(tuple(graphs), missing, is_buckets(batch))


def _outputs(original: onnx.ModelProto, simple: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The outputs with the shapes of the simplified model, whose constants are folded; those of the
    original where they are not known there. Raises `ModelError` for one that is in neither."""
    pairs = zip(original.graph.output, simple.graph.output, strict=True)
    outputs = [before if open_dimensions(after) else after for before, after in pairs]
    if untyped := without_shape(outputs):
        raise no_shape(untyped[0])
    return outputs


def _graph(original: onnx.ModelProto, form: IoForm, numbers: Mapping[str, Numbers]) -> Graph:
    """The graph of one batch, not simplified yet. Names the nodes of `original`."""
    name_nodes(original)
    scaled = {name: (one.scale, one.zero) for name, one in numbers.items()}
    fed = form.inputs(specs(inputs(original)), scaled)
    return Graph(original, original, fed, form.outputs(specs(original.graph.output)))
