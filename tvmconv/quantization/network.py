"""The float graph that is quantised: read, batch norms folded, and asked who reads what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, version_converter

from tvmconv.errors import ModelError, QuantizationError, first_line
from tvmconv.onnx import frontend
from tvmconv.onnx.model import (
    Model,
    fix_shapes,
    inputs,
    name_nodes,
    opset,
    read,
    read_by,
    shapes_of,
    specs,
)
from tvmconv.specs import TensorSpec

#: DequantizeLinear has an axis since this opset.
OPSET = 13
#: Operators of a model that is quantised already.
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger")


@dataclass(frozen=True)
class Network:
    """A float model in which every node has a name of its own. Look up nodes by these names."""

    proto: onnx.ModelProto

    @cached_property
    def nodes(self) -> dict[str, onnx.NodeProto]:
        """Nodes by name, each after those whose outputs it reads."""
        return {node.name: node for node in self.proto.graph.node}

    @cached_property
    def producer(self) -> dict[str, onnx.NodeProto]:
        """The node that writes each tensor; inputs and constants have none."""
        return {name: node for node in self.nodes.values() for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor, each once."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes.values():
            for name in dict.fromkeys(read_by(node)):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """Initializers by name."""
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    @cached_property
    def outputs(self) -> set[str]:
        """Names of the network's outputs."""
        return {value.name for value in self.proto.graph.output}

    @cached_property
    def floats(self) -> set[str]:
        """Names of the tensors in fp32, constants left out."""
        graph = self.proto.graph
        return {
            value.name
            for value in (*inputs(self.proto), *graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }

    def constant(self, name: str) -> NDArray[Any]:
        """Returns the values of a constant."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def variable_inputs(self, node: onnx.NodeProto) -> list[str]:
        """Returns the inputs of a node that are no constants, each as often as it is read."""
        return [name for name in node.input if name and name not in self.constants]

    def sizes(self, shapes: Mapping[str, Sequence[int]]) -> Network:
        """Returns the network with its inputs at these shapes, so that others can be inferred."""
        return Network(fix_shapes(self.proto, shapes=shapes))

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        """Dimensions of every tensor that is known; 0 for one that is open."""
        return shapes_of(self.proto)


def prepare(model: Model) -> tuple[Network, tuple[TensorSpec, ...]]:
    """Returns the float network that is quantised, and its inputs; an open dimension is 0.

    Batch norms and scales are folded into convolutions and constants computed, as in a build, so
    that nodes have the names that `tvmconv.inspect` prints. fp16 becomes fp32, except for inputs
    and outputs. Open dimensions stay open.

    Raises `ModelError` for a model that can't be read or that onnxruntime can't run, and
    `QuantizationError` for one that is quantised already.
    """
    proto = read(model)
    found = sorted({node.op_type for node in proto.graph.node} & set(QUANTIZED))
    found += sorted({n.op_type for n in proto.graph.node if n.op_type.startswith("QLinear")})
    if found:
        raise QuantizationError(
            f"the model is quantised already: it has {', '.join(found)}",
            hint="give the float model that it was made from",
        )
    name_nodes(proto)
    if opset(proto) < OPSET:
        proto = _raised(proto)
    simple = frontend.simplify(frontend.widen(proto))
    restore_shapes(simple, proto)
    return Network(simple), specs(inputs(proto))


def restore_shapes(simple: onnx.ModelProto, proto: onnx.ModelProto) -> None:
    """Gives outputs the shapes of ``proto``'s where inference has lost them; builds need one."""
    known = {value.name: value.type.tensor_type for value in proto.graph.output}
    for value in simple.graph.output:
        own = value.type.tensor_type
        if not own.HasField("shape") and known[value.name].HasField("shape"):
            own.shape.CopyFrom(known[value.name].shape)


def _raised(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model at `OPSET`."""
    try:
        return version_converter.convert_version(proto, OPSET)
    except Exception as error:  # its exceptions have no common base
        raise ModelError(
            f"the model is of opset {opset(proto)} and can't be converted to {OPSET}",
            note=f"a quantised model needs opset {OPSET}: {first_line(error)}",
            hint=f"export it for opset {OPSET} or later",
        ) from error
