"""The way in: from the model that is given to the graphs that are compiled, one for each bucket.

model -> read and checked -> quantised operators in one form -> shapes fixed at each bucket
      -> simplified -> operators checked
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
from onnx import helper

from tvmconv.errors import ModelError, UnsupportedOperatorError
from tvmconv.onnx import frontend
from tvmconv.onnx.batches import Batch, Shapes, at_buckets, is_buckets, require_independent
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
from tvmconv.onnx.runtime_shapes import add_known_shapes
from tvmconv.onnx.sidecars.beside import with_sidecar
from tvmconv.onnx.supported import unsupported, verdicts
from tvmconv.runtime.io_form import IoForm
from tvmconv.specs import OPEN, TensorSpec


@dataclass(frozen=True)
class Graph:
    """The network at one bucket."""

    #: The model as given, every shape fixed, every node with a name of its own; of a quantised one
    #: its form of QDQ (`tvmconv.onnx.quantized.inner_form`).
    original: onnx.ModelProto
    #: The same function in fewer nodes; the original where onnxruntime does not take it.
    simple: onnx.ModelProto
    #: Inputs and outputs in the dtype and layout that the build was asked for.
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    #: Operators that can't be built, with the reason, and how often each occurs.
    unsupported: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A model, ready to be compiled."""

    #: One for each bucket, that with the most to feed last.
    graphs: tuple[Graph, ...]
    #: True if it was asked for with a list of batches, so that it runs on any number of images.
    any_batch: bool
    #: What onnxruntime says of a model that it does not take; empty if it does.
    not_taken: str = ""

    @property
    def unsupported(self) -> Mapping[str, int]:
        """Operators that can't be built in some bucket; how often each occurs in one, at most."""
        found: Counter[str] = Counter()
        for graph in self.graphs:
            found |= Counter(graph.unsupported)
        return dict(found)

    def refusal(
        self,
        note: str = "",
        hint: str = "build the part without them: onnx.utils.extract_model cuts a model in two",
        shell: str = "",
    ) -> UnsupportedOperatorError:
        """The error that lists `unsupported`."""
        listed = ", ".join(f"{name} x{n}" for name, n in sorted(self.unsupported.items()))
        return UnsupportedOperatorError(
            f"the model uses operators that can't be built: {listed}",
            note=note,
            hint=hint,
            shell=shell,
        )


def prepare(
    model: Model,
    batch: Batch,
    shapes: Shapes,
    form: IoForm,
    quantization: str | Path | None = None,
) -> Prepared:
    """Reads a model and brings it to the form that is compiled, at every bucket.

    The parameters are those of `tvmconv.build`. Operators that can't be built are listed, not
    raised; where onnxruntime does not take a model with some of them, it is not simplified.

    Raises `ModelError` for a model that can't be read, that onnxruntime does not take although
    every operator can be built, or whose images affect each other if it is for several batches;
    `ShapeError` for shapes that are left open or do not fit; `QuantizationError` for scales, zero
    points and axes that can't be right, and for inputs that can't be fed as `form` says.
    """
    proto = read(model)
    declared = {one.name: one for one in proto.graph.output if not without_shape([one])}
    if quantization is not None:
        proto = with_sidecar(proto, quantization)
    # What is in a branch is brought to one form when it is known that the branch is taken.
    branches = has_branches(proto.graph)
    proto = proto if branches else to_qdq(proto)
    fixed = at_buckets(proto, batch, shapes)
    fixed = tuple(map(to_qdq, fixed)) if branches else fixed
    numbers = find_numbers(fixed[-1], str(form.dtype)) if form.eight_bits else {}
    graphs = [_graph(original, form, numbers) for original in fixed]
    not_taken = ""
    for i in reversed(range(len(graphs))):  # the largest first: it is the likeliest to fail
        original = graphs[i].original
        try:
            # Folded constants may decide an If, or leave nothing of an operator.
            simple, missing = _simple(original, numbers)
        except ModelError as error:
            if not (missing := unsupported(original)):
                raise
            not_taken = error.note or error.what
            graphs = [replace(graph, unsupported=missing) for graph in graphs]
            break
        made = form.outputs(specs(_outputs(original, simple, declared if missing else {}), OPEN))
        graphs[i] = replace(graphs[i], simple=simple, outputs=made, unsupported=missing)
    prepared = Prepared(tuple(graphs), is_buckets(batch), not_taken)
    if is_buckets(batch) and not prepared.unsupported:
        require_independent(proto, batch, shapes)
    return prepared


def _simple(
    original: onnx.ModelProto, numbers: Mapping[str, Numbers]
) -> tuple[onnx.ModelProto, Mapping[str, int]]:
    """The graph of one bucket in fewer nodes, and what can't be built of it. Raises `ModelError` if
    onnxruntime takes no such model."""
    wide = frontend.widen(feed_numbers(original, numbers))
    simple = sink(frontend.simplify(wide))
    if not (missing := unsupported(simple, folded=True)):
        return simple, missing
    refused = [node for node, why in verdicts(simple, folded=True) if why is not None]
    if any(node in refused for node in frontend.folds_to_constants(simple)):
        # Such as NonZero of a constant.
        simple = sink(frontend.simplify(wide, fold_all=True))
    if refused:
        add_known_shapes(simple)
    return simple, unsupported(simple, folded=True)


def _outputs(
    original: onnx.ModelProto,
    simple: onnx.ModelProto,
    declared: Mapping[str, onnx.ValueInfoProto],
) -> list[onnx.ValueInfoProto]:
    """The outputs with the shapes of the simplified model, whose constants are folded; those of the
    original where they are not known there, and where not even the rank is, the open dimensions
    of `declared`. Raises `ModelError` for one that has no rank anywhere."""
    pairs = zip(original.graph.output, simple.graph.output, strict=True)
    outputs = [
        before if open_dimensions(after) and not open_dimensions(before) else after
        for before, after in pairs
    ]
    for i, one in enumerate(outputs):
        if without_shape([one]) and one.name in declared:
            rank = len(declared[one.name].type.tensor_type.shape.dim)
            element = one.type.tensor_type.elem_type
            outputs[i] = helper.make_tensor_value_info(one.name, element, [None] * rank)
    if untyped := without_shape(outputs):
        raise no_shape(untyped[0])
    return outputs


def _graph(original: onnx.ModelProto, form: IoForm, numbers: Mapping[str, Numbers]) -> Graph:
    """The graph of one bucket, not simplified yet. Names the nodes of `original`."""
    name_nodes(original)
    scaled = {name: (one.scale, one.zero) for name, one in numbers.items()}
    fed = form.inputs(specs(inputs(original)), scaled)
    return Graph(original, original, fed, form.outputs(specs(original.graph.output, OPEN)))
