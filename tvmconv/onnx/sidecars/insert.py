"""Puts QDQ pairs into a float model, where a quantised layer reads and where they cost no fusion.

- At the input of every convolution and product whose weights are constants; these become int8, one
  scale for each output channel.
- At the inputs of pools, Resize and Concat, which then move bytes.
- At an Add on the shortcut alone, so that convolution, Add and activation stay one kernel.

Not between a layer and its batch norm or activation, and not at an output. Rules of TensorRT's
documentation and NVIDIA's ModelOpt.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from tvmconv.errors import QuantizationError
from tvmconv.onnx.quantized.editor import Array, Editor
from tvmconv.onnx.quantized.operators import DEQUANTIZE, MOVES, QUANTIZE, SCALES, is_standard
from tvmconv.onnx.quantized.wrap import attributes
from tvmconv.onnx.sidecars.sidecar import Scale, Sidecar

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Operators that are computed on bytes.
CARRIERS = ("AveragePool", "Concat", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Resize")
#: What may stand between a layer and an Add in one kernel.
BETWEEN = ("BatchNormalization", "Identity")
#: The largest quantised weight: symmetric, so that their zero point is 0.
LARGEST = 127


def insert(proto: onnx.ModelProto, sidecar: Sidecar) -> list[str]:
    """Puts QDQ pairs into a model of opset 13 or later, in place. Returns tensors that layers read
    and that have no scale. Raises `QuantizationError`."""
    return _Insertion(Editor(proto), sidecar).run()


class _Insertion:
    def __init__(self, editor: Editor, sidecar: Sidecar) -> None:
        self.editor, self.sidecar = editor, sidecar
        self.order = {node.name: at for at, node in enumerate(editor.proto.graph.node)}
        #: By tensor its QDQ pair's result; by weight and axis that of its DequantizeLinear.
        self.rounded: dict[str, str] = {}
        self.weights: dict[tuple[str, int | None], str] = {}
        self.missing: dict[str, None] = {}

    def run(self) -> list[str]:
        for node in self.editor.walk():
            if node.name not in self.sidecar.float_nodes:
                if is_standard(node, *LAYERS):
                    self._layer(node)
                for at in self._carried(node):
                    scale = self._scale(node.input[at])
                    if scale is not None:
                        node.input[at] = self._pair(node.input[at], scale)
            self.editor.keep(node)
        self.editor.finish()
        return list(self.missing)

    # ------------------------------------------------------------ layers

    def _layer(self, node: onnx.NodeProto) -> None:
        """Quantises input and weights of a layer whose weights are constants."""
        x, name = node.input[:2]
        weights = self.editor.value(name)
        if weights is None or weights.ndim < 2 or self.editor.value(x) is not None:
            return
        if name in self.sidecar.not_quantised or x in self.sidecar.not_quantised:
            return
        if node.op_type in ("Gemm", "MatMul") and weights.ndim > 2:
            return
        if x in self.sidecar.per_channel:
            raise QuantizationError(
                f"{self.sidecar.source} has a scale for each channel of {x!r}",
                note=f"{node.op_type} {node.name!r} sums over its channels",
                hint="give an activation one scale; only weights have one for each channel",
            )
        given = self._scale(x)
        if given is None:
            self.missing[x] = None
            return
        axis = _channels(node)
        if (name, axis) not in self.weights:
            self.weights[name, axis] = self._weights(name, weights, axis)
        node.input[0], node.input[1] = self._pair(x, given), self.weights[name, axis]

    def _weights(self, name: str, weights: Array, axis: int | None) -> str:
        """Writes int8 weights behind a DequantizeLinear. axis: None for one scale of all."""
        wide = weights.astype(np.float32)
        others = tuple(at for at in range(wide.ndim) if axis is None or at != axis)
        largest = np.abs(wide).max(axis=others, keepdims=True)
        # A channel of zeros has any scale.
        scale = np.where(largest > 0, largest / np.float32(LARGEST), np.float32(1))
        numbers = np.clip(np.rint(wide / scale), -LARGEST, LARGEST).astype(np.int8)
        flat = scale.reshape(-1 if axis is not None else ())
        inputs = [
            self.editor.constant(numbers, f"{name}.quantized"),
            self.editor.constant(flat, f"{name}.scale"),
            self.editor.constant(np.zeros(flat.shape, np.int8), f"{name}.zero_point"),
        ]
        return self._dequantize(inputs, name, axis or 0)

    # ------------------------------------------------------------ other operators

    def _carried(self, node: onnx.NodeProto) -> Iterator[int]:
        """Which inputs of an operator that is no layer are quantised, if they have a scale."""
        if is_standard(node, "Concat"):
            yield from range(len(node.input))
        elif is_standard(node, *CARRIERS):
            yield 0
        elif is_standard(node, "Add"):
            values = [self.editor.value(name) for name in node.input]
            if all(value is None for value in values) and node.input[0] != node.input[1]:
                made = [self._fused(name) for name in node.input]
                last = max(made)
                yield from (at for at in (0, 1) if made[at] < 0 or made[at] < last)

    def _fused(self, name: str) -> int:
        """The place of the layer whose kernel can add to this tensor; -1 for none."""
        while name in self.editor.makers and len(self.editor.readers[name]) == 1:
            maker = self.editor.makers[name]
            if name in self.editor.kept:
                break
            if is_standard(maker, *LAYERS):
                return self.order[maker.name]
            if not is_standard(maker, *BETWEEN):
                break
            name = maker.input[0]
        return -1

    # ------------------------------------------------------------ QDQ pairs

    def _scale(self, name: str) -> Scale | None:
        """The scale of a tensor, or of the one whose numbers it has in another order; None if the
        file has neither. TensorRT, for one, has none of a Flatten's result."""
        while name not in self.sidecar.scales:
            maker = self.editor.makers.get(name)
            if maker is None or not is_standard(maker, *MOVES, "Dropout"):
                return None
            name = maker.input[0]
        return self.sidecar.scales[name]

    def _pair(self, name: str, one: Scale) -> str:
        """The tensor as it is after quantising."""
        if name not in self.rounded:
            editor = self.editor
            dtype = np.int8 if one.signed else np.uint8
            x = name
            if editor.element(name) == TensorProto.FLOAT16:
                x = editor.emit("Cast", [name], f"{name}.float32", to=TensorProto.FLOAT)
            scale = editor.constant(np.array(one.scale, np.float32), f"{name}.scale")
            zero = editor.constant(np.array(one.zero_point, dtype), f"{name}.zero_point")
            q = editor.emit(QUANTIZE, [x, scale, zero], f"{name}.quantized", axis=0)
            self.rounded[name] = self._dequantize([q, scale, zero], name, 0)
        return self.rounded[name]

    def _dequantize(self, inputs: list[str], name: str, axis: int) -> str:
        """Writes a DequantizeLinear with the element type of tensor `name`."""
        y = self.editor.emit(DEQUANTIZE, inputs, f"{name}.dequantized", axis=axis)
        # Scales are fp32, as fp16 has few digits for small ones.
        element = self.editor.element(name)
        if element in SCALES and element != TensorProto.FLOAT:
            y = self.editor.emit("Cast", [y], f"{name}.float16", to=element)
        return y


def _channels(node: onnx.NodeProto) -> int | None:
    """The axis of a layer's weights that its output channels are; None if there is none."""
    given = attributes(node)
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if given.get("group", 1) == 1 else None
    return 0 if node.op_type == "Gemm" and given.get("transB", 0) else 1
