"""Reads and checks an ONNX model, and fixes its shapes. Needs no TVM compiler.

path | bytes | ModelProto -> ModelProto (read) -> ModelProto, every dimension a number (fix_shapes)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper, shape_inference

from tvmconv.errors import ModelError, ShapeError, UnsupportedOperatorError, first_line
from tvmconv.onnx.branches import has_branches, known_shapes, take_known_branches
from tvmconv.onnx.file import check_size, content, load_external
from tvmconv.onnx.forms import one_form
from tvmconv.onnx.runtime_shapes import corrections, pinned
from tvmconv.specs import TensorSpec

#: A path, the bytes of a file, or a proto.
Model = str | Path | bytes | onnx.ModelProto
NO_ELEMENTS = "no network is built for tensors without elements"


def read(model: Model) -> onnx.ModelProto:
    """Returns a checked copy of the model, in one form, with all tensors in it.

    Raises `ModelError`.
    """
    if isinstance(model, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
    else:
        data, where = content(model)
        try:
            proto = onnx.load_model_from_string(data)
        except DecodeError as error:
            raise ModelError(
                f"{where} is not an ONNX model",
                note=f"it can't be decoded: {error}",
                hint="is the file complete? Was it saved by onnx.save, not as a checkpoint?",
            ) from error
    load_external(proto, Path(model) if isinstance(model, str | Path) else None)
    check_size(proto)
    proto = one_form(proto)
    _check(proto)
    return proto


#: A longer Range of constants is refused: shape inference stores each number in some 150 bytes, and
#: a network that counts pixels or tokens needs far fewer.
MAX_RANGE = 1 << 22


def _check_ranges(proto: onnx.ModelProto) -> None:
    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            values[node.output[0]] = node.attribute[0].t
        if node.op_type != "Range" or not all(name in values for name in node.input):
            continue
        bounds = [numpy_helper.to_array(values[name]) for name in node.input]
        start, stop, step = (float(bound.item()) for bound in bounds if bound.size == 1)
        length = max(0.0, (stop - start) / step) if step else math.inf
        if not length <= MAX_RANGE:
            raise ModelError(
                f"Range {node.name or node.output[0]!r} counts {length:.0f} numbers",
                note=f"the most that can be built is {MAX_RANGE}",
                hint="give the numbers to the network as an input",
            )


#: Operators whose attribute `pads` can't be negative.
PADDED = (
    *("AveragePool", "Conv", "ConvInteger", "ConvTranspose", "LpPool", "MaxPool", "MaxUnpool"),
    "QLinearConv",
)


def _check_pads(proto: onnx.ModelProto) -> None:
    """Raises `UnsupportedOperatorError` for negative pads, of which no shape is inferred."""
    for node in proto.graph.node:
        pads = next((list(one.ints) for one in node.attribute if one.name == "pads"), [])
        if node.op_type in PADDED and any(pad < 0 for pad in pads):
            raise UnsupportedOperatorError(
                "the model uses operators that can't be built: "
                f"{node.op_type} (with negative pads)",
                note=f"the pads of {node.name or node.output[0]!r} are {pads}",
                hint="cut its input by a Slice before it, and let its pads be 0 or more",
            )


def _check(proto: onnx.ModelProto) -> None:
    opset(proto)
    _check_ranges(proto)
    _check_pads(proto)
    if not all(output.type.tensor_type.HasField("shape") for output in proto.graph.output):
        # Common, and the only complaint that the checker would have.
        _type_outputs(proto)
        try:
            proto.CopyFrom(shape_inference.infer_shapes(proto))
        except Exception as error:  # its exceptions have no common base
            raise ModelError(
                "the shapes of the model's outputs can't be inferred",
                note=first_line(error),
                hint="name the shape of every output in the model",
            ) from error
        _type_outputs(proto)
    untyped = without_shape(proto.graph.output)
    for output in untyped:
        output.type.tensor_type.shape.SetInParent()  # so that the checker looks at the rest
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            "the ONNX model is not valid",
            note=first_line(error),
            hint="export it anew; onnx.checker.check_model says more",
        ) from error
    for output in untyped:
        output.type.tensor_type.ClearField("shape")
    # The shape of what an If gives may follow from the branch that is taken, and onnxruntime knows
    # those of operators of other domains.
    if untyped and not has_branches(proto.graph) and not has_other_domains(proto.graph):
        raise no_shape(untyped[0])
    if not proto.graph.output:
        raise ModelError(
            "the ONNX model has no outputs", hint="export it with what it should compute"
        )


def no_shape(output: onnx.ValueInfoProto) -> ModelError:
    """The error of an output of which not even the rank is known."""
    return ModelError(
        f"output {output.name!r} has no shape, and none can be inferred",
        hint="name the shape of every output in the model",
    )


def has_other_domains(graph: onnx.GraphProto) -> bool:
    """True for a graph with an operator that is not one of ONNX's own."""
    return any(node.domain not in ("", "ai.onnx") for node in graph.node)


def without_shape(values: Iterable[onnx.ValueInfoProto]) -> list[onnx.ValueInfoProto]:
    """Those of `values` whose rank is not known."""
    return [value for value in values if not value.type.tensor_type.HasField("shape")]


def opset(proto: onnx.ModelProto) -> int:
    """The version of the standard operators that the model uses. Raises `ModelError`."""
    for one in proto.opset_import:
        if one.domain in ("", "ai.onnx"):
            return one.version
    raise ModelError(
        "the ONNX model does not say which version of the standard operators it uses",
        note="it imports " + (", ".join(one.domain for one in proto.opset_import) or "no opset"),
        hint="add the import: model.opset_import.append(onnx.helper.make_opsetid('', 17))",
    )


# ---------------------------------------------------------------- shapes


def inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs to feed: without initializers, which are listed as inputs too before ONNX IR 4."""
    initializers = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in initializers]


def fix_shapes(
    proto: onnx.ModelProto,
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> onnx.ModelProto:
    """Makes every dimension a number.

    batch: fills the first dimension of every input, if it is open. shapes: whole shapes by input.
    An If that they decide is replaced by the branch that is taken. Raises `ShapeError` that lists
    the dimensions left open, or names a shape that does not fit.
    """
    given = _checked_arguments(batch, shapes)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    names = [value.name for value in inputs(fixed)]
    for name in given:
        if name not in names:
            raise ShapeError(
                f"the model has no input {name!r}",
                note=f"its inputs are {', '.join(names)}" if names else "it has no inputs",
            )
    still_open = []
    for value in inputs(fixed):
        still_open += _fix_input(value, batch, given.get(value.name))
    if still_open:
        raise ShapeError(
            "dimensions of the model are left open: " + ", ".join(still_open),
            note=f"a size of 0 counts as open: {NO_ELEMENTS}"
            if any(dim.endswith("(0)") for dim in still_open)
            else "",
            hint="give batch=1, or shapes={'" + names[0] + "': (1, 3, 224, 224)}",
            shell=f"give --batch 1, or --shape {names[0]}=1,3,224,224",
        )
    fixed = infer_shapes(fixed)
    while has_branches(fixed.graph) and take_known_branches(fixed):
        fixed = infer_shapes(one_form(fixed))  # of what is in the branch, too
    return fixed


def _checked_arguments(batch: Any, shapes: Any) -> dict[str, tuple[int, ...]]:
    """Checks both arguments and returns the shapes by name. Raises `ShapeError`."""
    if batch is not None:
        check_batch(batch)
    hint = "give shapes={'input': (1, 3, 224, 224)}, with the input's name"
    shell = "give --shape input=1,3,224,224, with the input's name"
    if shapes is not None and not isinstance(shapes, Mapping):
        what = f"shapes are given by input name, not as {shapes!r}"
        raise ShapeError(what, hint=hint, shell=shell)
    given = {}
    for name, shape in (shapes or {}).items():
        sizes = () if isinstance(shape, str | bytes) or not hasattr(shape, "__iter__") else shape
        if sizes is not shape or not all(map(_is_integer, sizes)):
            what = f"input {name!r} can't have the shape {shape!r}"
            raise ShapeError(what, hint=hint, shell=shell)
        given[name] = tuple(map(int, sizes))
    return given


#: The hint of errors about a batch.
ONE = {"hint": "give batch=1", "shell": "give --batch 1"}


def check_batch(batch: Any) -> None:
    """Raises `ShapeError` unless `batch` is an integer of 1 or more."""
    if not _is_integer(batch):
        raise ShapeError(f"a batch is a number of elements, not {batch!r}", **ONE)
    if batch < 1:
        raise ShapeError(f"a batch has at least one element, not {batch}", **ONE)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _fix_input(
    value: onnx.ValueInfoProto, batch: int | None, shape: Sequence[int] | None
) -> list[str]:
    """Sets the shape of an input. Returns descriptions of dimensions left open."""
    tensor = value.type.tensor_type
    if shape is not None:
        if tensor.HasField("shape") and len(shape) != len(tensor.shape.dim):
            raise ShapeError(
                f"input {value.name!r} has {len(tensor.shape.dim)} dimensions, "
                f"the shape given has {len(shape)}: {tuple(shape)}",
                hint=f"give {len(tensor.shape.dim)} sizes",
            )
        if any(size < 1 for size in shape):
            raise ShapeError(
                f"input {value.name!r} can't have the shape {tuple(shape)}",
                note=NO_ELEMENTS if 0 in shape else "",
                hint="every size is 1 or more",
            )
        value.CopyFrom(helper.make_tensor_value_info(value.name, tensor.elem_type, list(shape)))
        return []
    if batch is not None:
        fill_batch(value, batch)
    return open_dimensions(value)


def fill_batch(value: onnx.ValueInfoProto, batch: int) -> None:
    """Sets the open first dimension of an input, in place. Raises `ShapeError` for another that is
    fixed."""
    check_batch(batch)
    for first in value.type.tensor_type.shape.dim[:1]:
        if first.dim_value and first.dim_value != batch:
            raise ShapeError(
                f"input {value.name!r} has a fixed first dimension of {first.dim_value}, "
                f"batch is {batch}",
                hint=f"to override it, give shapes={{'{value.name}': ...}}",
                shell=f"to override it, give --shape {value.name}=...",
            )
        first.Clear()
        first.dim_value = int(batch)


def open_dimensions(value: onnx.ValueInfoProto) -> list[str]:
    """Describes the dimensions of an input that are not numbers."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return [f"all of {value.name!r}"]
    return [
        f"{value.name!r} axis {axis}" + _as_written(dim)
        for axis, dim in enumerate(tensor.shape.dim)
        if dim.dim_value < 1
    ]


def _as_written(dim: onnx.TensorShapeProto.Dimension) -> str:
    if dim.dim_param:
        return f" ({dim.dim_param!r})"
    return f" ({dim.dim_value})" if dim.HasField("dim_value") else ""


def drop_unread(graph: onnx.GraphProto) -> None:
    """Removes nodes that no output depends on, in place."""
    needed = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(read_by(node))
    live = [node for node in graph.node if needed.intersection(node.output)]
    del graph.node[:]
    graph.node.extend(live)


def read_by(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads, those that graphs inside of it take from outside among them."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names += read_by(inner)
            names += [output.name for output in graph.output]
    return names


def drop_unread_constants(graph: onnx.GraphProto) -> None:
    """Removes initializers that nothing reads, in place."""
    read = {name for node in graph.node for name in read_by(node)}
    read.update(output.name for output in graph.output)
    live = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(live)


def infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Infers all shapes anew, since those in the file may be of another batch.

    Raises `ShapeError`.
    """
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = _inferred(proto)
    pins: dict[str, list[int]] = {}
    while wrong := corrections(inferred):
        pins |= wrong
        seen = _inferred(pinned(proto, pins)).graph
        for kept, new in (
            (inferred.graph.value_info, seen.value_info),
            (inferred.graph.output, seen.output),
        ):
            del kept[:]
            kept.extend(new)
    _check_reshapes(inferred)
    return inferred


def _check_reshapes(proto: onnx.ModelProto) -> None:
    """Raises `ShapeError` for a Reshape to another number of elements; inference lets it pass."""
    shapes = known_shapes(proto.graph)
    for node in proto.graph.node:
        if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx"):
            continue
        given, made = shapes.get(node.input[0]), shapes.get(node.output[0])
        if given is None or made is None:
            continue
        if math.prod(given) != math.prod(made):
            raise ShapeError(
                f"Reshape {node.name or node.output[0]!r} can't make {tuple(made)} of "
                f"{tuple(given)}: they have {math.prod(made)} and {math.prod(given)} elements",
                note="its shape is a constant of the model, exported for another batch or size",
                hint="give the shapes that it was exported for, or export it with open dimensions",
            )


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every shape that ONNX infers. Raises `ShapeError`."""
    _type_outputs(proto)
    try:
        inferred = shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except Exception as error:  # its exceptions have no common base
        raise ShapeError(
            "the shapes given do not fit the model",
            note=first_line(error),
            hint="give the shapes that it was exported for, or export it for these",
        ) from error
    _type_outputs(inferred)
    return inferred


def _type_outputs(proto: onnx.ModelProto) -> None:
    """Sets types of outputs that are not the result of a node, which inference leaves out.

    Such an output is an initializer, an input, or listed twice. Call it before inference as well,
    which would otherwise apply an output's missing shape to the initializer.
    """
    graph = proto.graph
    known = {tensor.name: _type_of(tensor) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            known.setdefault(value.name, value.type)
    for output in graph.output:
        if not output.type.tensor_type.HasField("shape") and output.name in known:
            output.type.CopyFrom(known[output.name])


def _type_of(tensor: onnx.TensorProto) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def shapes_of(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Inferred dimensions of every tensor, by name; 0 for one that is not known."""
    graph = proto.graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def specs(values: Iterable[onnx.ValueInfoProto], unknown: int = 0) -> tuple[TensorSpec, ...]:
    """Name, shape and NumPy dtype of inputs or outputs. unknown: stands for an open dimension."""
    return tuple(
        TensorSpec(
            value.name,
            tuple(
                dim.dim_value if dim.HasField("dim_value") else unknown
                for dim in value.type.tensor_type.shape.dim
            ),
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        )
        for value in values
    )


def name_nodes(proto: onnx.ModelProto) -> None:
    """Gives every node a unique name, in place, for reports."""
    taken: Counter[str] = Counter()
    given = {node.name for node in proto.graph.node}
    for i, node in enumerate(proto.graph.node):
        made = f"{node.op_type}_{i}"
        # A node that has a name keeps it.
        node.name = node.name or (f"{made}_unnamed" if made in given else made)
        taken[node.name] += 1
        if taken[node.name] > 1:
            node.name = f"{node.name}_{i}"
