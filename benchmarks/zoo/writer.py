"""Writes an ONNX network node by node; how the zoo describes one that is written here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from benchmarks.zoo.inputs import imagenet
from benchmarks.zoo.model import ZooModel


class Writer:
    """A network being written: nodes in order, and weights by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, TensorProto] = {}

    def node(self, op: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Appends a node; its output has its name."""
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str, value: ArrayLike) -> str:
        """Adds a float32 initializer."""
        self.weights[name] = numpy_helper.from_array(np.asarray(value, np.float32), name)
        return name

    def filtered(
        self,
        name: str,
        x: str,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        stride: int = 1,
        pad: int = 0,
        groups: int = 1,
    ) -> str:
        """Writes a convolution, alike in rows and columns. weight: (K, C / groups, R, S)."""
        inputs = [x, self.weight(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self.weight(f"{name}.bias", bias))
        taps = np.shape(weight)[2:]
        window = {"kernel_shape": taps, "strides": [stride] * 2, "pads": [pad] * 4}
        return self.node("Conv", name, inputs, group=groups, **window)

    def clip6(self, name: str, x: str) -> str:
        """Writes ReLU6, min(max(x, 0), 6)."""
        low, high = self.weight("relu6.min", 0.0), self.weight("relu6.max", 6.0)
        return self.node("Clip", name, [x, low, high])

    def model(self, side: int, classes: int) -> onnx.ModelProto:
        """Returns the model: "input" [batch, 3, side, side] to "output" [batch, classes].

        The last node gives the output. float32, NCHW, open batch.
        """
        self.nodes[-1].output[0] = "output"
        pixels: list[str | int] = ["batch", 3, side, side]
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, pixels)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", classes])],
            list(self.weights.values()),
        )
        opset = helper.make_opsetid("", 17)  # IR 8 is the version that came with it
        return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def seeded(
    name: str, parameters: int, gmacs: float, make: Callable[[], onnx.ModelProto]
) -> ZooModel:
    """Returns the entry of a network for ImageNet, by torchvision's architecture."""
    source = "torchvision's architecture, seeded weights, written here"
    licence = "none needed: written by this project"
    return ZooModel(name, source, licence, parameters, gmacs, "input", make, imagenet)
