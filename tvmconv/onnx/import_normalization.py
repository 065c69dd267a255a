"""Imports LayerNormalization, with any scale and bias that broadcast, and InstanceNormalization.

    y = (x - mean) / sqrt(variance + epsilon) * scale + bias

over the axes from `axis` on; or over the pixels of a channel, which is a group of its own.

https://onnx.ai/onnx/operators/onnx__LayerNormalization.html allows scale and bias to broadcast;
TVM's operator has them in the shape of the normalized axes.
https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmconv.onnx.import_convs import sizes_of


def layer_normalization(
    builder: relax.BlockBuilder, inputs: Sequence[Any], attributes: dict[str, Any], opset: int
) -> relax.Expr:
    """Imports a LayerNormalization, of whose results only the first is used."""
    x, scale, bias = [*inputs, None][:3]
    shape, dtype = sizes_of(x), str(x.ty.dtype)
    axis = attributes.get("axis", -1) % len(shape)
    normalized = shape[axis:]
    factors = [_expanded(one, normalized) for one in (scale, bias) if one is not None]
    inside = all(one is not None for one in factors)
    ones = relax.const(np.ones(normalized, dtype))
    zeros = relax.const(np.zeros(normalized, dtype))
    given = [*factors, zeros][:2] if inside else [ones, zeros]
    axes, epsilon = list(range(axis, len(shape))), attributes.get("epsilon", 1e-5)
    y = relax.op.nn.layer_norm(x, *given, axes=axes, epsilon=epsilon)
    if not inside:  # they differ along axes that are not normalized
        y = relax.op.multiply(builder.emit(y), scale)
        y = y if bias is None else relax.op.add(builder.emit(y), bias)
    if attributes["tvm_custom"]["num_outputs"] == 1:
        return y
    return relax.Tuple([builder.emit(y), *[relax.const(0.0)] * 2])


def instance_normalization(
    builder: relax.BlockBuilder, inputs: Sequence[Any], attributes: dict[str, Any], opset: int
) -> relax.Expr:
    """Imports an InstanceNormalization."""
    x, *factors = inputs
    groups = sizes_of(x)[1]
    pixels = list(range(2, len(sizes_of(x))))
    epsilon = attributes.get("epsilon", 1e-5)
    if not pixels:  # TVM's operator has pixels
        wide = builder.emit(relax.op.expand_dims(x, 2))
        y = relax.op.nn.group_norm(wide, *factors, groups, 1, [2], epsilon)
        return relax.op.squeeze(builder.emit(y), 2)
    return relax.op.nn.group_norm(x, *factors, groups, 1, pixels, epsilon)


def _expanded(factor: relax.Expr, normalized: Sequence[int]) -> relax.Expr | None:
    """A scale or bias in the shape of the normalized axes; None if it has others."""
    shape = sizes_of(factor)
    if shape == list(normalized):
        return factor
    while len(shape) > len(normalized) and shape[0] == 1:
        shape = shape[1:]
    if len(shape) > len(normalized):
        return None
    if isinstance(factor, tvm.ir.GenericConst):
        numbers = factor.value.numpy().reshape(shape)
        return relax.const(np.ascontiguousarray(np.broadcast_to(numbers, normalized)))
    return relax.op.broadcast_to(relax.op.reshape(factor, shape), normalized)
