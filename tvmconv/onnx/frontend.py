"""From ONNX to Relax: the graph is widened to fp32, simplified, then imported.

ModelProto -> ModelProto of fp32 (widen) -> fewer nodes (simplify) -> IRModule (to_relax)
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import tempfile
import warnings

import onnx
import onnxruntime
import tvm
from onnx import helper, numpy_helper

from tvmconv.errors import (
    ModelError,
    TvmconvError,
    UnsupportedOperatorError,
    first_line,
    last_line,
)
from tvmconv.onnx.branches import RANDOM, known_shapes, rename, tensor_names
from tvmconv.onnx.empty import drop_empty_operands
from tvmconv.onnx.file import check_size
from tvmconv.onnx.importer import Importer
from tvmconv.onnx.model import drop_unread, infer_shapes, inputs, name_nodes, opset, read_by
from tvmconv.onnx.quantized.operators import DEQUANTIZE
from tvmconv.runtime.session import open_session

#: Attributes that name an element type.
DTYPES = ("dtype", "output_dtype", "precision", "to")


def widen(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Converts a model of fp16 to fp32, except its inputs and outputs.

    The plan decides which operators compute in fp16. And onnxruntime has few fp16 operators for a
    CPU: it would put casts around each node.
    """
    fp16, fp32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    graph = wide.graph
    fed = inputs(wide)
    taken = tensor_names(graph)

    def wide_name(name: str) -> str:
        """A name that no tensor has yet, of a tensor of that name in fp32."""
        new = f"{name}.wide"
        while new in taken:
            new += "_"
        taken.add(new)
        return new

    _widen_values(graph)
    for value in graph.input:
        if value.type.tensor_type.elem_type != fp16:
            continue
        if value not in fed:  # an initializer, listed as before ONNX IR 4
            value.type.tensor_type.elem_type = fp32
            continue
        name = wide_name(value.name)
        for node in graph.node:
            rename(node, {value.name: name})
        graph.node.insert(0, helper.make_node("Cast", [value.name], [name], name, to=fp32))
    # An output that is an input stays; one that is listed twice needs one cast.
    narrow = {v.name for v in graph.output if v.type.tensor_type.elem_type == fp16}
    for output in sorted(narrow - {value.name for value in fed}):
        name = wide_name(output)
        _rename(graph, output, name)
        cast = helper.make_node("Cast", [name], [output], f"{output}.narrow", to=fp16)
        graph.node.append(cast)
    return infer_shapes(wide)


def _widen_values(graph: onnx.GraphProto) -> None:
    """Widens constants and casts, and all of a branch or the body of a loop, in place."""
    fp16, fp32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in DTYPES and attribute.i == fp16:
                attribute.i = fp32
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                _widen_values(inner)
                for value in (*inner.input, *inner.value_info, *inner.output):
                    if value.type.tensor_type.elem_type == fp16:
                        value.type.tensor_type.elem_type = fp32


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Renames a tensor everywhere except in the list of outputs."""
    for node in graph.node:
        rename(node, {old: new})
    for one in (*graph.initializer, *graph.input):
        if one.name == old:
            one.name = new


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == onnx.TensorProto.FLOAT16:
        array = numpy_helper.to_array(tensor).astype("float32")
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


#: A constant is folded if it has at most FOLDED_BYTES, or FOLDED_GROWTH times the bytes of the
#: model's largest tensor (twice the growth of 8-bit weights cast to fp32), so that a small model
#: that expands a number does not become large. Larger constants are computed at run time.
FOLDED_GROWTH = 8
FOLDED_BYTES = 64 << 20


def _folded_limit(proto: onnx.ModelProto) -> int:
    """The most bytes of a constant that is folded."""
    largest = max((tensor.ByteSize() for tensor in proto.graph.initializer), default=0)
    return max(FOLDED_BYTES, FOLDED_GROWTH * largest)


#: Optimisations that are left out.
DISABLED = (
    # It renames the node, and adds reshapes to one of more than two dimensions.
    "MatMulAddFusion",
    # These are for kernels of onnxruntime: QDQ pairs are added past operators that move numbers,
    # float weights become int8, and one of two QDQ pairs goes, though their scales differ.
    "QDQPropagationTransformer",
    "WeightBiasQuantization",
    "DoubleQDQPairsRemover",
)


def folds_to_constants(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that constants decide, which `simplify` leaves where it can't know their size.

    None if a constant that is known to be over the limit is among them.
    """
    known = {tensor.name for tensor in proto.graph.initializer}
    shapes, limit = known_shapes(proto.graph), _folded_limit(proto)
    found = []
    for node in proto.graph.node:
        if node.op_type in RANDOM or not all(name in known for name in read_by(node)):
            continue
        known.update(node.output)
        found.append(node)
        # 8 bytes an element, the most that there are.
        if any(8 * math.prod(shapes.get(name, [0])) > limit for name in node.output):
            return []
    return found


def simplify(proto: onnx.ModelProto, fold_all: bool = False) -> onnx.ModelProto:
    """Reduces the number of nodes by onnxruntime's basic graph optimisations.

    They fold constants up to a size (shape arithmetic included), fold batch norms and scales into
    the weights of convolutions, and remove identities. Quantised weights stay behind their
    DequantizeLinear, and QDQ pairs where they are. The result has standard operators only;
    nodes that stay keep their names. fold_all: constants of unknown size as well.

    Raises `ModelError` if onnxruntime can't run the model.
    """
    check_size(proto)  # again: as fp32 it may have doubled
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes",
        "0" if fold_all else str(_folded_limit(proto)),
    )
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        options.optimized_model_filepath = f"{folder}/simple.onnx"
        try:
            open_session(proto, options, DISABLED)
        except Exception as error:
            raise _not_taken(error, proto) from error
        simple = onnx.load(options.optimized_model_filepath)
    _drop_copies(simple.graph)
    drop_unread(simple.graph)  # onnxruntime leaves some
    # Before ONNX IR 4 initializers are listed as inputs too, even those that are folded now.
    named = {one.name for one in (*inputs(proto), *simple.graph.initializer)}
    kept = [value for value in simple.graph.input if value.name in named]
    del simple.graph.input[:]
    simple.graph.input.extend(kept)
    simple = infer_shapes(simple)
    drop_empty_operands(simple.graph)
    name_nodes(simple)  # onnxruntime gives those that it makes of one no names
    return simple


#: Element types for which onnxruntime has every operator that takes them.
COMMON = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL)


def _not_taken(error: Exception, proto: onnx.ModelProto) -> ModelError:
    missing = re.search(r"NOT_IMPLEMENTED : .*implementation for (\w+)\((\d+)\)", first_line(error))
    if missing and _elements(proto, missing[1]) <= {*COMMON}:
        return UnsupportedOperatorError(
            "the model uses operators that can't be built: "
            f"{missing[1]} (of opset {missing[2]}, which onnxruntime does not have)",
            note="onnxruntime simplifies the model, and has to be able to run it",
            hint=f"export the model for an opset before {missing[2]}",
        )
    if missing:
        return UnsupportedOperatorError(
            "the model uses operators that can't be built: "
            f"{missing[1]} (not in onnxruntime for these dtypes)",
            note="onnxruntime simplifies the model, and has to be able to run it",
            hint="cast to a dtype that it has, such as float or int64, and back",
        )
    return ModelError(
        "onnxruntime does not take this model",
        note=first_line(error),
        hint="the model has to run in onnxruntime, which simplifies it: try that first",
    )


def _elements(proto: onnx.ModelProto, operator: str) -> set[int]:
    """The element types that an operator reads and gives somewhere in the model."""
    graph = proto.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    known |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == operator]
    names = {name for node in nodes for name in (*node.input, *node.output) if name}
    return {known.get(name, onnx.TensorProto.UNDEFINED) for name in names}


#: What onnxruntime adds to the name of a DequantizeLinear that it copies.
COPIED = re.compile(r"/duplicated\w*$")


def _drop_copies(graph: onnx.GraphProto) -> None:
    """Removes copies of DequantizeLinear: onnxruntime gives one to each reader, at every level."""
    named = {node.name: node for node in graph.node if node.op_type == DEQUANTIZE}
    names: dict[str, str] = {}
    written: list[onnx.NodeProto] = []
    placed: set[str] = set()
    for node in graph.node:
        first = named.get(COPIED.sub("", node.name), node)
        if first.op_type == DEQUANTIZE:
            if node.output[0] != first.output[0]:
                names[node.output[0]] = first.output[0]
            if first.name in placed:
                continue
            placed.add(first.name)  # where the first of its copies is read
        written.append(onnx.NodeProto())
        written[-1].CopyFrom(first)
        rename(written[-1], names)
    del graph.node[:]
    graph.node.extend(written)


def to_relax(proto: onnx.ModelProto) -> tvm.IRModule:
    """Imports a model of fixed shapes as a Relax module, with weights as constants.

    Raises `ModelError` if TVM's importer fails.
    """
    version = opset(proto)
    # The importer warns of names that are not identifiers, which does not matter here, and prints
    # before it raises, which would mix with our output.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        importer = Importer({}, {}, keep_params_in_input=False)
        try:
            return importer.from_onnx(proto.graph, version)
        except TvmconvError:
            raise  # our own refusals
        except Exception as error:
            raise ModelError(
                "TVM's importer does not take this model",
                note=last_line(error),
                hint="export the model for another opset, such as 17; if that is the same, "
                "please report it",
            ) from error
        finally:
            importer.end()
