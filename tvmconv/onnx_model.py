"""The ONNX model as it is given: read, checked, its shapes fixed. Needs no TVM compiler.

path | bytes | ModelProto -> ModelProto (read) -> ModelProto, every dimension a number (fix_shapes)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import helper, shape_inference

from tvmconv.errors import ModelError, ShapeError
from tvmconv.executable import TensorSpec

#: What a model may be given as.
Model = str | Path | bytes | onnx.ModelProto


def read(model: Model) -> onnx.ModelProto:
    """The model as a proto of its own, checked. Raises `ModelError`."""
    if isinstance(model, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
    else:
        data, where = _bytes(model)
        try:
            proto = onnx.load_model_from_string(data)
        except DecodeError as error:
            raise ModelError(
                f"{where} is not an ONNX model",
                note=f"it can't be decoded: {error}",
                hint="is the file complete? Was it saved by onnx.save, not as a checkpoint?",
            ) from error
    if not all(output.type.tensor_type.HasField("shape") for output in proto.graph.output):
        # Common in the wild, and all that the checker would complain of.
        proto = shape_inference.infer_shapes(proto)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        note = str(error).strip().splitlines()[0]
        raise ModelError("the ONNX model is not valid", note=note) from error
    if not proto.graph.output:
        raise ModelError("the ONNX model has no outputs")
    return proto


def _bytes(model: str | Path | bytes) -> tuple[bytes, str]:
    if isinstance(model, bytes):
        if not model:
            raise ModelError("the ONNX model is empty: 0 bytes")
        return model, f"what was given ({len(model)} bytes)"
    if not isinstance(model, str | Path):
        raise ModelError(
            f"a model can't be a {type(model).__name__}",
            hint="give a path, the bytes of an ONNX file, or an onnx.ModelProto",
        )
    path = Path(model)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} can't be read", note=str(error)) from error
    if not data:
        raise ModelError(f"{path} is empty: 0 bytes", hint="was the download interrupted?")
    return data, str(path)


# ---------------------------------------------------------------- shapes


def inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What has to be fed: inputs that are not initializers as well (as before ONNX IR 4)."""
    initializers = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in initializers]


def fix_shapes(
    proto: onnx.ModelProto,
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> onnx.ModelProto:
    """Every dimension a number. `batch` fills an input's open first one, `shapes` sets whole ones.

    Raises `ShapeError` that names each dimension left open, or a shape that does not fit.
    """
    given = dict(shapes or {})
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    names = [value.name for value in inputs(fixed)]
    for name in given:
        if name not in names:
            raise ShapeError(
                f"the model has no input {name!r}", note=f"its inputs are {', '.join(names)}"
            )
    still_open = []
    for value in inputs(fixed):
        still_open += _fix_input(value, batch, given.get(value.name))
    if still_open:
        raise ShapeError(
            "dimensions of the model are left open: " + ", ".join(still_open),
            hint="give batch=1, or shapes={'" + names[0] + "': (1, 3, 224, 224)}",
        )
    return infer_shapes(fixed)


def _fix_input(
    value: onnx.ValueInfoProto, batch: int | None, shape: Sequence[int] | None
) -> list[str]:
    """Sets what can be set; gives the dimensions left open, in words."""
    tensor = value.type.tensor_type
    if shape is not None:
        if tensor.HasField("shape") and len(shape) != len(tensor.shape.dim):
            raise ShapeError(
                f"input {value.name!r} has {len(tensor.shape.dim)} dimensions, "
                f"the shape given has {len(shape)}: {tuple(shape)}"
            )
        if any(size < 1 for size in shape):
            raise ShapeError(f"input {value.name!r} can't have the shape {tuple(shape)}")
        value.CopyFrom(helper.make_tensor_value_info(value.name, tensor.elem_type, list(shape)))
        return []
    if not tensor.HasField("shape"):
        return [f"all of {value.name!r}"]
    if batch is not None and tensor.shape.dim:
        first = tensor.shape.dim[0]
        if first.dim_value and first.dim_value != batch:
            raise ShapeError(
                f"input {value.name!r} has a fixed first dimension of {first.dim_value}, "
                f"batch is {batch}",
                hint=f"to override it, give shapes={{'{value.name}': ...}}",
            )
        if batch < 1:
            raise ShapeError(f"a batch has at least one element, not {batch}")
        first.Clear()
        first.dim_value = batch
    return [
        f"{value.name!r} axis {axis}" + (f" ({dim.dim_param!r})" if dim.dim_param else "")
        for axis, dim in enumerate(tensor.shape.dim)
        if dim.dim_value < 1
    ]


def infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes of everything between, anew: those in the file may be of another batch."""
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        note = str(error).strip().splitlines()[0]
        raise ShapeError("the shapes given do not fit the model", note=note) from error


def specs(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Name, shape and NumPy dtype of each."""
    return tuple(
        TensorSpec(
            value.name,
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        )
        for value in values
    )


def name_nodes(proto: onnx.ModelProto) -> None:
    """Gives every node a name of its own, in place, so that the report can speak of it."""
    taken: Counter[str] = Counter()
    for i, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
        taken[node.name] += 1
        if taken[node.name] > 1:
            node.name = f"{node.name}_{i}"
