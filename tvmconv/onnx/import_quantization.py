"""Imports QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear as arithmetic.

`ConvertLayout` carries a layout across arithmetic, not across TVM's own operators for them. The
rules that look for the arithmetic are in `tvmconv.passes.regions.quantization`.

    QuantizeLinear      saturate(round(x / scale) + zero point), ties to even
    DequantizeLinear    (x - zero point) * scale
    DynamicQuantizeLinear
                        scale = (most - least) / 255, zero point = saturate(round(-least / scale)),
                        least = min(x, 0), most = max(x, 0); a scale of 1 where all of x is 0

Sources: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html; of the scale where all is
0 onnxruntime's definition, as ONNX has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from intrinsics import dtypes

Inputs = Sequence[Any]
Attributes = dict[str, Any]


def quantize(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr:
    """Imports a QuantizeLinear, to the zero point's dtype: uint8 if there is none."""
    x, scale, zero = [*inputs, None][:3]
    dtype = "uint8" if zero is None else str(zero.ty.dtype)
    limits = np.iinfo(dtypes.get(dtype).numpy)
    wide, axis = str(x.ty.dtype), attributes.get("axis", 1)
    value = builder.emit(relax.op.divide(x, _shaped(builder, scale, x, axis, wide)))
    value = builder.emit(relax.op.round(value))
    if not _is_zero(zero):
        value = builder.emit(relax.op.add(value, _shaped(builder, zero, x, axis, wide)))
    value = builder.emit(relax.op.maximum(value, relax.const(float(limits.min), wide)))
    value = builder.emit(relax.op.minimum(value, relax.const(float(limits.max), wide)))
    return relax.op.astype(value, dtype)


def dequantize(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr:
    """Imports a DequantizeLinear, to fp32."""
    x, scale, zero = [*inputs, None][:3]
    wide, axis = dtypes.FP32.name, attributes.get("axis", 1)
    value = builder.emit(relax.op.astype(x, wide))
    if not _is_zero(zero):
        value = builder.emit(relax.op.subtract(value, _shaped(builder, zero, x, axis, wide)))
    return relax.op.multiply(value, _shaped(builder, scale, x, axis, wide))


def dynamic_quantize(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr:
    """Imports a DynamicQuantizeLinear: (x as uint8, scale, zero point), the last two of no
    dimensions."""
    (x,) = inputs
    limits, wide = np.iinfo(np.uint8), dtypes.FP32.name
    nothing, steps = relax.const(0.0, wide), relax.const(float(limits.max), wide)
    most = builder.emit(relax.op.maximum(_reduced(builder, relax.op.max, x), nothing))
    least = builder.emit(relax.op.minimum(_reduced(builder, relax.op.min, x), nothing))
    extent = builder.emit(relax.op.subtract(most, least))
    scale = builder.emit(relax.op.divide(extent, steps))
    empty = builder.emit(relax.op.equal(extent, nothing))
    scale = builder.emit(relax.op.where(empty, relax.const(1.0, wide), scale))
    zero = builder.emit(relax.op.divide(builder.emit(relax.op.subtract(nothing, least)), scale))
    zero = builder.emit(relax.op.minimum(builder.emit(relax.op.round(zero)), steps))
    number = builder.emit(relax.op.astype(zero, "uint8"))
    value = builder.emit(relax.op.round(builder.emit(relax.op.divide(x, scale))))
    value = builder.emit(relax.op.add(value, zero))
    value = builder.emit(relax.op.maximum(value, nothing))
    value = builder.emit(relax.op.minimum(value, steps))
    return relax.Tuple([builder.emit(relax.op.astype(value, "uint8")), scale, number])


def _reduced(builder: relax.BlockBuilder, reduce: Any, x: relax.Expr) -> relax.Expr:
    """The largest or least of all elements, in two steps: a GPU does the first in many blocks, and
    one kernel of a full reduction none of the rules for GPUs schedules."""
    rank = len(x.ty.shape)
    for axes in (list(range(rank))[-max(rank - 2, 1) :], list(range(rank))):
        x = builder.emit(reduce(x, axis=axes, keepdims=True))
    return builder.emit(relax.op.reshape(x, []))


def _is_zero(zero: relax.Expr | None) -> bool:
    return zero is None or (isinstance(zero, tvm.ir.GenericConst) and not zero.value.numpy().any())


def _shaped(
    builder: relax.BlockBuilder, value: relax.Expr, x: relax.Expr, axis: int, dtype: str
) -> relax.Expr:
    """A scale or zero point in the rank of x, as `dtype`."""
    rank = len(x.ty.shape)
    if isinstance(value, tvm.ir.GenericConst):
        numbers = value.value.numpy().astype(dtype)
        sizes = [1] * rank if numbers.size == 1 else _sizes(rank, axis)
        return relax.const(numbers.reshape(sizes), dtype)
    wide = builder.emit(relax.op.astype(value, dtype))
    if not len(value.ty.shape):
        return wide  # which a layout is carried across
    one = all(int(size) == 1 for size in value.ty.shape)
    return builder.emit(relax.op.reshape(wide, [1] * rank if one else _sizes(rank, axis)))


def _sizes(rank: int, axis: int) -> list[int]:
    return [-1 if at == axis % rank else 1 for at in range(rank)]
