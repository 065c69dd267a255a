"""Small ONNX models that the tests feed to the compiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]


class Graph:
    """Builds a model node by node; every method gives the name of what it made."""

    def __init__(self, shape: Sequence[int | str], seed: int = 0, dtype: str = "float32") -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.element = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.inputs = [helper.make_tensor_value_info("input", self.element, list(shape))]

    def constant(self, array: Array, name: str | None = None) -> str:
        name = name or f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(
        self,
        x: str,
        c: int,
        k: int,
        r: int = 3,
        bias: bool = True,
        group: int = 1,
        **attributes: Any,
    ) -> str:
        fan = c // group * r * r
        weight = self.rng.standard_normal((k, c // group, r, r)) * np.sqrt(2 / fan)
        inputs = [x, self.constant(weight.astype(self.dtype))]
        if bias:
            inputs.append(self.constant(self.rng.standard_normal(k).astype(self.dtype)))
        attributes.setdefault("pads", [r // 2] * 4)
        return self.op("Conv", *inputs, group=group, **attributes)

    def model(self, *outputs: str, opset: int = 17) -> onnx.ModelProto:
        infos = [
            self.inputs[0]
            if name == "input"
            else helper.make_tensor_value_info(name, self.element, None)
            for name in outputs
        ]
        graph = helper.make_graph(self.nodes, "test", self.inputs, infos, self.initializers)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )


def residual_net(batch: int | str = 1, channels: int = 16, size: int = 12) -> onnx.ModelProto:
    """Stem of 3 channels, max pooling, two residual blocks, average pooling, classifier."""
    g = Graph([batch, 3, size, size])
    x = g.op("Relu", g.conv("input", 3, channels, 7, strides=[2, 2]))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for _ in range(2):
        y = g.op("Relu", g.conv(x, channels, channels))
        x = g.op("Relu", g.op("Add", g.conv(y, channels, channels), x))
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    weight = g.constant(g.rng.standard_normal((10, channels)).astype(np.float32))
    return g.model(g.op("Gemm", x, weight, transB=1, name="output"))


def random_feed(shape: Sequence[int], seed: int = 1, dtype: str = "float32") -> dict[str, Array]:
    return {"input": np.random.default_rng(seed).standard_normal(shape).astype(dtype)}
