"""What tests ask of a quantised model: who reads what in 8 bits, at which scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

import tvmconv
from tvmconv.quantization.quantize import Quantized

Array = NDArray[Any]


def feeds(
    model: onnx.ModelProto, count: int = 3, batch: int = 1, seed: int = 0
) -> list[dict[str, Array]]:
    """Normal numbers for the model's only input, an open batch at `batch`."""
    value = model.graph.input[0]
    shape = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    rng = np.random.default_rng(seed)
    return [{value.name: rng.standard_normal(shape).astype(dtype)} for _ in range(count)]


def quantized(model: onnx.ModelProto, **options: Any) -> Quantized:
    """The model quantised on normal numbers, and valid."""
    found = tvmconv.quantize(model, feeds(model), **{"method": "minmax", **options})
    onnx.checker.check_model(found.proto, full_check=True)
    return found


class View:
    """A quantised graph as tests look at it."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.nodes = list(proto.graph.node)
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.values = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}

    def node(self, name: str) -> onnx.NodeProto:
        """The node of a name."""
        return next(node for node in self.nodes if node.name == name)

    @property
    def scales(self) -> dict[str, float]:
        """The scale of every activation that is rounded, by its name in the float model."""
        found = [node for node in self.nodes if node.op_type == "QuantizeLinear"]
        assert len({node.input[0] for node in found}) == len(found), "rounded twice"
        return {node.input[0]: float(self.values[node.input[1]]) for node in found}

    def rounded(self, name: str, at: int = 0) -> str:
        """The activation that a node reads in 8 bits as its input `at`; "" if not in 8 bits."""
        back = self.producer.get(self.node(name).input[at])
        if back is None or back.op_type != "DequantizeLinear":
            return ""
        first = self.producer.get(back.input[0])
        return "" if first is None else first.input[0]

    def weight(self, name: str, at: int = 1) -> tuple[Array, Array, int]:
        """The integers that a node reads as its input `at`, their scales and axis."""
        back = self.producer[self.node(name).input[at]]
        assert back.op_type == "DequantizeLinear"
        axis = next(one.i for one in back.attribute if one.name == "axis")
        return self.values[back.input[0]], self.values[back.input[1]], axis


def ran(proto: onnx.ModelProto, feed: dict[str, Array], *, fused: bool = True) -> Sequence[Array]:
    """What onnxruntime gives. fused: with its integer kernels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Else its sums of unsigned by signed bytes saturate on a CPU without VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, feed)
