"""TVM's ONNX importer, but for the operators that it gets wrong or no pass recognises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvmconv import import_convs

#: Of many inputs, and what joins two of them.
JOINS: dict[str, Callable[[relax.Expr, relax.Expr], relax.Expr]] = {
    "Sum": relax.op.add,
    "Mean": relax.op.add,
    "Max": relax.op.maximum,
    "Min": relax.op.minimum,
}


#: What is a convolution, and what converts it; TVM has 3-D transposed ones of its own.
CONVS = {"Conv": import_convs.conv, "ConvTranspose": import_convs.conv_transpose}


class Importer(onnx_frontend.ONNXGraphImporter):
    """Builds a Relax module from a graph that `frontend.unsupported` has nothing against."""

    def _convert_operator(
        self, op_name: str, inputs: list[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        if op_name == "Conv" or (op_name == "ConvTranspose" and inputs[0].ty.ndim < 5):
            x, weight, bias = [*inputs, None][:3]
            return CONVS[op_name](self.bb, x, weight, bias, attrs)
        result = None
        if op_name == "Clip":
            result = self._clip(inputs, attrs, opset)
        elif op_name in ("HardSigmoid", "HardSwish"):
            result = self._hard(op_name, inputs[0], attrs)
        elif op_name == "LeakyRelu":
            result = self._leaky(inputs[0], attrs.get("alpha", 0.01))
        elif op_name == "PRelu" and _is_constant(inputs[1]) and inputs[1].value.numpy().size == 1:
            result = self._leaky(inputs[0], float(inputs[1].value.numpy().reshape(-1)[0]))
        elif op_name == "Pad":
            result = self._pad(inputs, attrs, opset)
        elif op_name in JOINS and not all(map(_is_constant, inputs)):
            result = self._join(op_name, inputs)
        elif op_name in ("Resize", "Upsample"):
            return self._repeat_pixels(op_name, inputs, attrs, opset)
        elif op_name == "Dropout" and attrs["tvm_custom"]["num_outputs"] == 1:
            # TVM's converter gives a pair, which ConvertLayout can't take as an output.
            result = inputs[0]
        if result is not None:
            return self.bb.normalize(result)
        result = super()._convert_operator(op_name, inputs, attrs, opset)
        # Bound now and not where it is first used: `regions` knows nodes by their order.
        return self.bb.emit(result) if op_name in ("Gemm", "MatMul") else result

    def _clip(
        self, inputs: Sequence[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr | None:
        """Not relax.op.clip, across which ConvertLayout does not carry a layout."""
        bounds = [attrs.get("min"), attrs.get("max")] if opset < 11 else list(inputs[1:3])
        low, high = [*bounds, None, None][:2]
        if any(isinstance(bound, relax.Expr) and not _is_constant(bound) for bound in (low, high)):
            return None
        dtype = inputs[0].ty.dtype
        least, most = _number(low, -math.inf), _number(high, math.inf)
        raised = self.bb.emit(relax.op.maximum(inputs[0], relax.const(least, dtype)))
        return relax.op.minimum(raised, relax.const(most, dtype))

    def _pad(
        self, inputs: Sequence[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr | None:
        """Zeros as one operator, which `absorb_pad` knows; TVM's is a function with no name."""
        x, pads, value, axes = [*inputs, None, None, None][:4]
        if opset < 11:
            pads, value = attrs.get("pads"), attrs.get("value", 0.0)
        computed = (isinstance(one, relax.Expr) and not _is_constant(one) for one in (value, axes))
        if pads is None or not (opset < 11 or _is_constant(pads)) or any(computed):
            return None
        zeros = attrs.get("mode", b"constant") == b"constant" and _number(value, 0.0) == 0
        if not zeros or not _dtype(x).startswith("float"):
            return None
        rank = x.ty.ndim
        widths, given = [0] * 2 * rank, np.reshape(_numbers(pads), (2, -1))
        on = range(rank) if axes is None else _numbers(axes)
        for axis, before, after in zip(on, *given, strict=True):
            at = 2 * (int(axis) % rank)
            widths[at : at + 2] = int(before), int(after)
        return relax.op.nn.pad(x, widths, "constant", 0.0)

    def _hard(self, op_name: str, x: relax.Expr, attrs: dict[str, Any]) -> relax.Expr:
        """Without relax.op.clip, for the same reason."""
        swish, dtype = op_name == "HardSwish", _dtype(x)
        alpha, beta = (1 / 6, 0.5) if swish else (attrs.get("alpha", 0.2), attrs.get("beta", 0.5))
        line = self.bb.emit(relax.op.multiply(x, relax.const(alpha, dtype)))
        line = self.bb.emit(relax.op.add(line, relax.const(beta, dtype)))
        raised = self.bb.emit(relax.op.maximum(line, relax.const(0.0, dtype)))
        bounded = self.bb.emit(relax.op.minimum(raised, relax.const(1.0, dtype)))
        return relax.op.multiply(x, bounded) if swish else bounded

    def _leaky(self, x: relax.Expr, alpha: float) -> relax.Expr:
        """By comparisons, across which ConvertLayout carries a layout."""
        zero, slope = (relax.const(value, _dtype(x)) for value in (0.0, alpha))
        below = self.bb.emit(relax.op.multiply(self.bb.emit(relax.op.minimum(x, zero)), slope))
        return relax.op.add(self.bb.emit(relax.op.maximum(x, zero)), below)

    def _join(self, op_name: str, inputs: Sequence[relax.Expr]) -> relax.Expr:
        """Pairwise: TVM stacks the inputs along a new axis, which ConvertLayout can't follow."""
        joined = reduce(lambda x, y: self.bb.emit(JOINS[op_name](x, y)), inputs)
        if op_name != "Mean" or len(inputs) == 1:
            return joined
        return relax.op.multiply(joined, relax.const(1 / len(inputs), inputs[0].ty.dtype))

    def _repeat_pixels(
        self, op_name: str, inputs: Sequence[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        """Nearest, by whole numbers: every pixel repeated, whichever form asked for it.

        TVM's converter is written for opset 18 and gets Upsample wrong. Of the coordinates that
        say the same, these are the ones for which no rounding is near a tie.
        """
        old = op_name == "Upsample" or opset < 11
        scales, sizes = ([*inputs[1:], None, None] if old else [*inputs[2:], None, None])[:2]
        if op_name == "Upsample" and "scales" in attrs:
            scales = relax.const(np.array(attrs["scales"], "float32"))
        if scales is not None and 0 in map(int, scales.ty.shape):
            scales = None  # how opset 11 leaves it out
        plain = {
            "mode": b"nearest",
            "coordinate_transformation_mode": b"half_pixel",
            "nearest_mode": b"round_prefer_floor",
            "tvm_custom": attrs["tvm_custom"],
        }
        given = [inputs[0], None, scales, None if scales is not None else sizes]
        return super()._convert_operator("Resize", given, plain, 18)


def _dtype(x: relax.Expr) -> str:
    return str(x.ty.dtype)


def _is_constant(value: Any) -> bool:
    return isinstance(value, tvm.ir.GenericConst)


def _number(bound: Any, default: float) -> float:
    if bound is None:
        return default
    return float(bound.value.numpy() if _is_constant(bound) else bound)


def _numbers(values: Any) -> Any:
    return values.value.numpy() if _is_constant(values) else values
