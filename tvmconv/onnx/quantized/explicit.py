"""Says in every QuantizeLinear and DequantizeLinear what may be left out, and checks it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tvmconv.onnx.quantized import checks
from tvmconv.onnx.quantized.editor import Array, Editor
from tvmconv.onnx.quantized.operators import DEQUANTIZE, QDQ, QUANTIZE, is_standard
from tvmconv.onnx.quantized.refusals import refusal_of_qdq

_T = onnx.TensorProto
#: The axis where none is given.
AXIS = 1


def explicit(proto: onnx.ModelProto) -> None:
    """Gives all QDQ an initializer as scale and as zero point, and an axis, in place.

    Scale and zero point are both a number, for the whole tensor, with axis 0; or both a vector,
    along an axis that is not negative where the number of dimensions is known. Attributes of newer
    opsets go: `output_dtype` becomes the zero point's type, or a Cast after DequantizeLinear;
    `precision`, of the division, is that of what is computed anyway, and `saturate` is about fp8.
    What can't be built stays as it is, to be refused by name. What DynamicQuantizeLinear finds is
    read as it is. Raises `QuantizationError`.
    """
    editor = Editor(proto)
    for node in editor.walk():
        if not is_standard(node, *QDQ) or refusal_of_qdq(node, editor.element):
            editor.keep(node)
        else:
            _Pair(editor, node).write()
    editor.finish()


class _Pair:
    """A QuantizeLinear or DequantizeLinear that is written anew."""

    def __init__(self, editor: Editor, node: onnx.NodeProto) -> None:
        self.editor, self.node = editor, node
        self.x, self.scale_name, self.zero_name = [*node.input, ""][:3]
        self.given = {one.name: one.i for one in node.attribute}
        self.where = f"{node.op_type} {node.name!r}"

    def write(self) -> None:
        """Raises `QuantizationError`."""
        editor, node = self.editor, self.node
        scale, zero = editor.value(self.scale_name), self._zero()
        shape, axis = editor.shape(self.x), self.given.get("axis", AXIS)
        checks.check(checks.Parameters(self.where, scale, zero, axis, shape))
        names = [
            self._parameter(self.scale_name, scale),
            self._parameter(self.zero_name or f"{node.output[0]}.zero_point", zero),
        ]
        number = all(one is None or one.size == 1 for one in (scale, zero))
        if number:
            axis = 0
        elif shape is not None:
            axis %= len(shape)
        cast = self._cast()
        output = editor.fresh(f"{node.output[0]}.uncast") if cast else node.output[0]
        editor.emit(node.op_type, [self.x, *names], node.name, output, axis=axis)
        if cast:
            editor.emit("Cast", [output], f"{node.output[0]}.cast", node.output[0], to=cast)

    def _zero(self) -> Array | None:
        """The zero point, 0 where there is none; None for one that is found at run time."""
        editor, wanted = self.editor, self._element()
        if self.zero_name:
            element = editor.element(self.zero_name)
            if _T.UNDEFINED not in (element, wanted):
                tensor = editor.tensor(self.zero_name)
                checks.check_zero_type(tensor, element, wanted, self.where)
            zero = editor.value(self.zero_name)
            if wanted == _T.INT32 and zero is not None:
                checks.check_bias_zero(zero, self.where)
            return zero
        scale = editor.value(self.scale_name)
        dtype = helper.tensor_dtype_to_np_dtype(wanted or _T.UINT8)
        return np.zeros(() if scale is None else scale.shape, dtype)

    def _element(self) -> int:
        """The type of what is quantised, `UNDEFINED` if it is not known."""
        if self.node.op_type == DEQUANTIZE:
            return self.editor.element(self.x)
        chosen = self.given.get("output_dtype", _T.UNDEFINED)
        zero = self.editor.element(self.zero_name) if self.zero_name else _T.UNDEFINED
        if chosen or zero not in (_T.INT8, _T.UINT8, _T.UNDEFINED):
            return chosen or _T.UINT8
        return zero

    def _parameter(self, name: str, value: Array | None) -> str:
        """The name of an initializer of this value; of the tensor itself if it is not known."""
        if value is None:
            return name
        wanted = value.reshape(()) if value.size == 1 else value
        tensor = self.editor.tensor(name)
        if tensor is not None and tuple(tensor.dims) == wanted.shape:
            return name
        return self.editor.constant(wanted, name)

    def _cast(self) -> int:
        """The type that a DequantizeLinear's result is cast to; 0 for none."""
        if self.node.op_type == QUANTIZE:
            return 0
        wanted = self.given.get("output_dtype", 0)
        return 0 if wanted in (0, self.editor.element(self.scale_name)) else wanted
