"""Shapes and element types that onnxruntime infers where ONNX's inference knows none.

So behind the operators of other domains, such as com.microsoft.Gelu, of which ONNX knows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnxruntime
from onnx import helper

from tvmconv.onnx.branches import known_shapes
from tvmconv.onnx.session import open_session

#: onnxruntime's names of element types, where they are not ONNX's in small letters.
NAMES = {"float": onnx.TensorProto.FLOAT}


def add_known_shapes(proto: onnx.ModelProto) -> None:
    """Adds to `proto`, in place, the types that onnxruntime has for results that have no fixed
    shape there. What onnxruntime does not know either stays as it is.

    Raises whatever onnxruntime raises for a model that it does not take.
    """
    graph = proto.graph
    known = known_shapes(graph)
    names = [name for node in graph.node for name in node.output if name and name not in known]
    if not names:
        return
    asked = onnx.ModelProto()
    asked.CopyFrom(proto)
    given = {value.name for value in graph.output}
    asked.graph.output.extend(onnx.ValueInfoProto(name=one) for one in names if one not in given)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        found = {one.name: one for one in open_session(asked, options).get_outputs()}
    except Exception:  # its exceptions have no common base; such results may be no outputs
        return
    values = {value.name: value for value in (*graph.value_info, *graph.output)}
    for name in names:
        value = values[name] if name in values else graph.value_info.add(name=name)
        _merge(value, found[name].type, found[name].shape)


def _merge(value: onnx.ValueInfoProto, kind: str, shape: Sequence[int | str | None]) -> None:
    """Sets the element type and shape of `value` as far as they are said and not known yet.

    kind: onnxruntime's, such as ``tensor(float)``. shape: empty also where it is not known.
    """
    if not kind.startswith("tensor(") or value.type.HasField("sequence_type"):
        return
    element = kind.removeprefix("tensor(").removesuffix(")")
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        number = NAMES.get(element) or onnx.TensorProto.DataType.Value(element.upper())
        tensor.elem_type = number
    if shape and (not tensor.HasField("shape") or len(tensor.shape.dim) == len(shape)):
        sizes = [size if isinstance(size, int) else None for size in shape]
        if tensor.HasField("shape"):  # ONNX may know a dimension that onnxruntime does not
            pairs = zip(tensor.shape.dim, sizes, strict=True)
            sizes = [dim.dim_value if dim.HasField("dim_value") else size for dim, size in pairs]
        value.CopyFrom(helper.make_tensor_value_info(value.name, tensor.elem_type, sizes))
