"""Converters of our own for operators that TVM's importer gets wrong, or imports in a form that
`ConvertLayout` can't carry a layout across.

Each takes (builder, inputs, attributes, opset) and returns an expression, or None to leave the node
to TVM's converter. A missing input is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmconv.errors import ModelError
from tvmconv.onnx import import_convs, import_quantization
from tvmconv.onnx.import_normalization import (
    instance_normalization,
    layer_normalization,
)
from tvmconv.onnx.import_pools import pool

Inputs = Sequence[Any]
Attributes = dict[str, Any]

#: Operators of any number of inputs, with the operator that joins two.
JOINS: dict[str, Callable[[relax.Expr, relax.Expr], relax.Expr]] = {
    "Sum": relax.op.add,
    "Mean": relax.op.add,
    "Max": relax.op.maximum,
    "Min": relax.op.minimum,
}


def clip(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports a Clip as comparisons; ConvertLayout carries no layout across relax.op.clip."""
    bounds = [attributes.get("min"), attributes.get("max")] if opset < 11 else list(inputs[1:3])
    low, high = [*bounds, None, None][:2]
    if any(isinstance(bound, relax.Expr) and not is_constant(bound) for bound in (low, high)):
        return None
    dtype = str(inputs[0].ty.dtype)
    result = inputs[0]
    # Floats always get both bounds, as an epilogue expects; integers have no infinity.
    if low is not None or "float" in dtype:
        bound = relax.const(_number(low, -math.inf), dtype)
        result = builder.emit(relax.op.maximum(result, bound))
    if high is not None or "float" in dtype:
        result = relax.op.minimum(result, relax.const(_number(high, math.inf), dtype))
    return result


def join(operator: str) -> Callable[..., relax.Expr | None]:
    """Joins inputs pairwise; TVM stacks them along a new axis, which ConvertLayout can't follow."""

    def joined(
        builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
    ) -> relax.Expr | None:
        if all(map(is_constant, inputs)):
            return None
        result = reduce(lambda x, y: builder.emit(JOINS[operator](x, y)), inputs)
        if operator != "Mean" or len(inputs) == 1:
            return result
        return relax.op.multiply(result, relax.const(1 / len(inputs), inputs[0].ty.dtype))

    return joined


def hard(operator: str) -> Callable[..., relax.Expr]:
    """Imports HardSigmoid and HardSwish without relax.op.clip, for the reason of `clip`."""

    def bounded_line(
        builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
    ) -> relax.Expr:
        x, swish = inputs[0], operator == "HardSwish"
        alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
        alpha, beta, zero, one = (
            relax.const(value, str(x.ty.dtype))
            for value in ((1 / 6, 0.5) if swish else (alpha, beta)) + (0.0, 1.0)
        )
        line = builder.emit(relax.op.add(builder.emit(relax.op.multiply(x, alpha)), beta))
        bounded = relax.op.minimum(builder.emit(relax.op.maximum(line, zero)), one)
        return relax.op.multiply(x, builder.emit(bounded)) if swish else bounded

    return bounded_line


def leaky_relu(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr:
    """Imports a LeakyRelu as comparisons, across which ConvertLayout carries a layout."""
    return _leaky(builder, inputs[0], attributes.get("alpha", 0.01))


def prelu(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports a PRelu of one slope as a LeakyRelu."""
    x, slope = inputs
    if not is_constant(slope) or slope.value.numpy().size != 1:
        return None
    return _leaky(builder, x, float(slope.value.numpy().reshape(-1)[0]))


def _leaky(builder: relax.BlockBuilder, x: relax.Expr, alpha: float) -> relax.Expr:
    zero, slope = (relax.const(value, str(x.ty.dtype)) for value in (0.0, alpha))
    below = builder.emit(relax.op.multiply(builder.emit(relax.op.minimum(x, zero)), slope))
    return relax.op.add(builder.emit(relax.op.maximum(x, zero)), below)


def pad(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports padding with zeros as one operator, which `absorb_pad` recognises."""
    x, pads, value, axes = [*inputs, None, None, None][:4]
    if opset < 11:
        pads, value = relax.const(np.array(attributes["pads"])), attributes.get("value", 0.0)
    if any(isinstance(one, relax.Expr) and not is_constant(one) for one in (pads, value, axes)):
        return None
    zeros = attributes.get("mode", b"constant") == b"constant" and _number(value, 0.0) == 0
    if not zeros or not str(x.ty.dtype).startswith("float"):
        return None
    rank = x.ty.ndim
    on = range(rank) if axes is None else axes.value.numpy().tolist()
    widths = [0] * 2 * rank
    for axis, *around in zip(on, *np.split(pads.value.numpy(), 2), strict=True):
        widths[2 * (axis % rank) : 2 * (axis % rank) + 2] = map(int, around)
    return relax.op.nn.pad(x, widths, "constant", 0.0)


def dropout(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr:
    """Imports a Dropout of inference as its input; TVM returns a pair, which ConvertLayout can't
    take as an output."""
    x = inputs[0]
    if attributes["tvm_custom"]["num_outputs"] == 1:
        return x
    mask = "bool" if opset >= 10 else str(x.ty.dtype)
    return relax.Tuple([x, builder.emit(relax.op.ones(x.ty.shape, mask))])


#: The largest whole exponent that is computed by products.
MOST_FACTORS = 8


def _whole_exponent(exponent: relax.Expr) -> int:
    """The value of a constant exponent that is one whole number up to MOST_FACTORS, else 0."""
    numbers = exponent.value.numpy() if is_constant(exponent) else np.empty(0)
    if numbers.size != 1:
        return 0
    value = float(numbers.reshape(-1)[0])
    return int(value) if value in range(1, MOST_FACTORS + 1) else 0


def power(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports a Pow, whose result has the base's dtype; TVM needs two floats of one dtype.

    Integers are computed in float64, as in onnxruntime: exact up to 2**53.
    """
    base, exponent = inputs[:2]
    dtype = str(base.ty.dtype)
    times = _whole_exponent(exponent)
    if times and "float" in dtype and not is_constant(base):
        # CUDA's fast math returns NaN for a power of a negative number.
        return reduce(lambda x, _: builder.emit(relax.op.multiply(x, base)), range(times - 1), base)
    if "float" in dtype:
        if str(exponent.ty.dtype) == dtype:
            return None
        return relax.op.power(base, builder.emit(relax.op.astype(exponent, dtype)))
    wide = [builder.emit(relax.op.astype(x, "float64")) for x in (base, exponent)]
    return relax.op.astype(builder.emit(relax.op.power(*wide)), dtype)


def squeeze(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports a Squeeze with axes counted from the front; negative ones exhaust ConvertLayout's
    memory."""
    x = inputs[0]
    if not isinstance(x.ty, relax.TensorType):
        return None  # a shape
    axes = attributes.get("axes")
    if opset >= 13 and len(inputs) > 1 and inputs[1] is not None:
        axes = [int(axis) for axis in inputs[1].value.numpy()]
    shape = [int(size) for size in x.ty.shape]
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    return relax.op.squeeze(x, [axis % len(shape) for axis in axes])


def slice_by_attributes(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports a Slice from before opset 10, whose bounds are attributes; TVM reads inputs."""
    if opset >= 10:
        return None
    shape = [int(size) for size in inputs[0].ty.shape]
    starts, ends = attributes["starts"], attributes["ends"]
    axes = [axis % len(shape) for axis in attributes.get("axes", range(len(starts)))]
    bounds = [
        slice(start, end).indices(shape[axis])
        for axis, start, end in zip(axes, starts, ends, strict=True)
    ]
    begin, end = [one[0] for one in bounds], [one[1] for one in bounds]
    return relax.op.strided_slice(inputs[0], axes, begin, end)


def gather(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports a Gather: of indices that are known, as a slice where they are evenly spaced.

    TVM reads where an index says, outside of the tensor too; here one that is computed is limited
    to the axis. Raises `ModelError` for a known one outside of it.
    """
    x, indices = inputs
    if not isinstance(x.ty, relax.TensorType) or not isinstance(indices.ty, relax.TensorType):
        return None  # a shape
    if is_constant(x) and is_constant(indices):
        return None  # folded by NumPy
    shape = [int(size) for size in x.ty.shape]
    axis = int(attributes.get("axis", 0)) % len(shape)
    extent = shape[axis]
    if not is_constant(indices):
        dtype = str(indices.ty.dtype)
        negative = builder.emit(relax.op.less(indices, relax.const(0, dtype)))
        from_end = builder.emit(relax.op.add(indices, relax.const(extent, dtype)))
        counted = builder.emit(relax.op.where(negative, from_end, indices))
        return relax.op.take(x, counted, axis, mode="clip")
    given = indices.value.numpy().astype(np.int64)
    if given.size and not -extent <= given.min() <= given.max() < extent:
        raise ModelError(
            f"a Gather reads index {given.min() if given.min() < -extent else given.max()} "
            f"of an axis of {extent}",
            note=f"axis {axis} of a tensor {shape}",
        )
    known = np.where(given < 0, given + extent, given)
    steps = np.unique(np.diff(known.reshape(-1)))
    if known.size == 0 or len(steps) > 1 or (len(steps) == 1 and steps[0] < 1):
        return relax.op.take(x, relax.const(known, "int64"), axis, mode="clip")
    step = int(steps[0]) if len(steps) else 1
    first, last = int(known.min()), int(known.max())
    part = builder.emit(relax.op.strided_slice(x, [axis], [first], [last + 1], [step]))
    return relax.op.reshape(part, (*shape[:axis], *known.shape, *shape[axis + 1 :]))


def softplus(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports a Softplus: max(x, 0) + log1p(y), y = exp(-|x|); TVM's log(1 + y) is 0 for a small y.

    log1p(y) = 2 atanh(s), s = y / (y + 2) <= 1/3, as a series up to s**17, exact to fp32.
    """
    x = inputs[0]
    dtype = str(x.ty.dtype)
    if dtype != "float32":
        return None

    def number(value: float) -> relax.Expr:
        return relax.const(value, dtype)

    y = builder.emit(relax.op.exp(relax.op.negative(relax.op.abs(x))))
    s = builder.emit(relax.op.divide(y, relax.op.add(y, number(2))))
    square = builder.emit(relax.op.multiply(s, s))
    series = number(1 / 17)
    for power_of_s in range(15, 0, -2):
        series = relax.op.add(relax.op.multiply(series, square), number(1 / power_of_s))
    log1p = relax.op.multiply(relax.op.multiply(number(2), s), series)
    return relax.op.add(relax.op.maximum(x, number(0)), builder.emit(log1p))


def bit_shift(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports a BitShift by any number of bits: by a negative one, or by the width or more, it is
    a shift by all bits, which neither a CPU nor a GPU has."""
    x, bits = inputs
    if is_constant(x) and is_constant(bits):
        return None  # folded by NumPy, which defines it so
    dtype = str(x.ty.dtype)
    width = np.iinfo(dtype).bits
    # As an unsigned number a negative one is large.
    distance = builder.emit(relax.op.astype(bits, f"uint{width}"))
    past = builder.emit(relax.op.greater_equal(distance, relax.const(width, f"uint{width}")))
    zero = relax.const(0, dtype)
    if attributes["direction"] == b"RIGHT" and dtype.startswith("int"):
        # The sign is left: what a shift by one bit less than all gives.
        inside = relax.op.where(past, relax.const(width - 1, dtype), bits)
        return relax.op.right_shift(x, builder.emit(inside))
    shift = relax.op.left_shift if attributes["direction"] == b"LEFT" else relax.op.right_shift
    inside = builder.emit(relax.op.where(past, zero, bits))
    return relax.op.where(past, zero, builder.emit(shift(x, inside)))


def modulo(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports a Mod of floats with the divisor's sign; TVM's floor_mod loses digits, and is NaN for
    an infinite divisor.

    It is fmod(x, y), plus y where that has the other sign: Python's and NumPy's definition.
    """
    x, y = inputs
    dtype = str(x.ty.dtype)
    if not dtype.startswith("float") or attributes.get("fmod", 0):
        return None
    zero = relax.const(0.0, dtype)
    rest = builder.emit(relax.op.mod(x, y))
    negative = builder.emit(relax.op.less(y, zero))
    # Not not_equal, which TVM compares as floats.
    differs = relax.op.logical_xor(builder.emit(relax.op.less(rest, zero)), negative)
    signed = relax.op.where(builder.emit(differs), builder.emit(relax.op.add(rest, y)), rest)
    none = relax.op.where(negative, relax.const(-0.0, dtype), zero)
    is_zero = builder.emit(relax.op.equal(rest, zero))
    return relax.op.where(is_zero, builder.emit(none), builder.emit(signed))


def space_to_depth(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr | None:
    """Imports a SpaceToDepth of mode CRD: the channel is the slowest, then the place in the block;
    TVM has the mode DCR alone."""
    if attributes.get("mode", b"DCR") == b"DCR":
        return None
    n, c, h, w = (int(size) for size in inputs[0].ty.shape)
    size = int(attributes["blocksize"])
    rows, columns = h // size, w // size
    blocks = builder.emit(relax.op.reshape(inputs[0], (n, c, rows, size, columns, size)))
    by_channel = builder.emit(relax.op.permute_dims(blocks, [0, 1, 3, 5, 2, 4]))
    return relax.op.reshape(by_channel, (n, c * size * size, rows, columns))


def roi_align(
    builder: relax.BlockBuilder, inputs: Inputs, attributes: Attributes, opset: int
) -> relax.Expr:
    """Imports a RoiAlign without moving its corners, which `tvmconv.passes.legalize.roi_align`
    does; TVM moves them before it scales them."""
    x, rois, images = inputs
    default = b"half_pixel" if opset >= 16 else b"output_half_pixel"
    image = builder.emit(relax.op.astype(relax.op.expand_dims(images, 1), str(rois.ty.dtype)))
    return relax.op.vision.roi_align(
        x,
        builder.emit(relax.op.concat([image, rois], 1)),
        pooled_size=(attributes.get("output_height", 1), attributes.get("output_width", 1)),
        spatial_scale=attributes.get("spatial_scale", 1.0),
        sample_ratio=attributes.get("sampling_ratio", 0),
        aligned=attributes.get("coordinate_transformation_mode", default) == b"half_pixel",
        layout="NCHW",
        mode=attributes.get("mode", b"avg").decode(),
    )


#: Converters by operator, used in place of TVM's.
OWN: dict[str, Callable[..., relax.Expr | None]] = {
    "BitShift": bit_shift,
    "Clip": clip,
    "Conv": import_convs.conv,
    "ConvTranspose": import_convs.conv_transpose,
    **{operator: join(operator) for operator in JOINS},
    "DequantizeLinear": import_quantization.dequantize,
    "DynamicQuantizeLinear": import_quantization.dynamic_quantize,
    "Dropout": dropout,
    "Gather": gather,
    "Gemm": import_convs.gemm,
    **{operator: hard(operator) for operator in ("HardSigmoid", "HardSwish")},
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "LeakyRelu": leaky_relu,
    **{operator: pool(operator) for operator in ("AveragePool", "MaxPool")},
    "Mod": modulo,
    "PRelu": prelu,
    "Pad": pad,
    "Pow": power,
    "QuantizeLinear": import_quantization.quantize,
    "RoiAlign": roi_align,
    "Slice": slice_by_attributes,
    "Softplus": softplus,
    "SpaceToDepth": space_to_depth,
    "Squeeze": squeeze,
}


def is_constant(value: Any) -> bool:
    """True for an input whose value is known when the network is built."""
    return isinstance(value, tvm.ir.GenericConst)


def _number(bound: Any, default: float) -> Any:
    if bound is None:
        return default
    return np.asarray(bound.value.numpy() if is_constant(bound) else bound).item()
