"""Checks of scales, zero points and axes: can they be right?

Only what is known when the network is built is checked: DynamicQuantizeLinear finds its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from tvmconv.errors import QuantizationError
from tvmconv.onnx.quantized.editor import Array
from tvmconv.onnx.quantized.operators import element_name

AGAIN = "calibrate and quantise the model anew"
#: A scale's values that are named in an error, at most.
NAMED = 4


@dataclass(frozen=True)
class Parameters:
    """Scale, zero point and axis of a QuantizeLinear or DequantizeLinear.

    scale, zero: a number, or a vector along `axis`; None for one that is found at run time. shape:
    of the tensor that is scaled, None where it is open. where: the node, for errors.
    """

    where: str
    scale: Array | None
    zero: Array | None
    axis: int
    shape: list[int | None] | None


def check(given: Parameters) -> None:
    """Raises `QuantizationError` if any of them can't be right."""
    if given.scale is not None:
        check_scale(given.scale, given.where)
        if given.zero is not None:
            _check_shapes(given.scale, given.zero, given.where)
    vector = next(
        (one for one in (given.scale, given.zero) if one is not None and one.size > 1), None
    )
    if vector is not None:
        _check_axis(given, len(vector))


def check_scale(scale: Array, where: str) -> None:
    """Raises `QuantizationError` unless all scales are finite and more than 0."""
    flat = np.asarray(scale).ravel()
    if scale.ndim > 1 and flat.size > 1:
        raise QuantizationError(
            f"{where} has a scale of the shape {scale.shape}",
            note="a scale is one number, or a vector with one for each element of an axis",
            hint=AGAIN,
        )
    if not flat.size:
        raise QuantizationError(f"{where} has a scale without elements", hint=AGAIN)
    wrong = np.flatnonzero(~(np.isfinite(flat) & (flat > 0)))
    if wrong.size:
        which = ", ".join(f"{flat[at]:g}" for at in wrong[:NAMED])
        places = ", ".join(map(str, wrong[:NAMED])) + (", ..." if wrong.size > NAMED else "")
        raise QuantizationError(
            f"{where} has a scale of {which}",
            note="a scale is finite and more than 0"
            + (f"; this is at {places} of {flat.size}" if flat.size > 1 else ""),
            hint=f"was the tensor 0 in calibration, or never computed? {AGAIN}",
        )


def check_zero_type(tensor: onnx.TensorProto | None, element: int, wanted: int, where: str) -> None:
    """Raises `QuantizationError` if a zero point is not of the type of what is quantised, or if the
    numbers in the file do not fit that.

    tensor: the zero point, where it is an initializer. element: its type. wanted: that of what is
    quantised.
    """
    if element != wanted:
        raise QuantizationError(
            f"{where} has a zero point of {element_name(element)}",
            note=f"what is quantised is of {element_name(wanted)}",
            hint="give the zero point the same type",
        )
    if tensor is None or not tensor.int32_data:
        return
    # Types of 8 bits are stored in 32, which readers cut off.
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(element))
    if wrong := [one for one in tensor.int32_data if not limits.min <= one <= limits.max]:
        raise QuantizationError(
            f"{where} has a zero point of {wrong[0]}",
            note=f"{element_name(element)} holds {limits.min} to {limits.max}",
            hint=AGAIN,
        )


def check_bias_zero(zero: Array, where: str) -> None:
    """Raises `QuantizationError` unless the zero point of an int32 tensor is 0."""
    if zero.any():
        raise QuantizationError(
            f"{where} has a zero point of {zero.ravel()[np.flatnonzero(zero)[0]]}",
            note="what is dequantised is int32, whose zero point is 0",
            hint="leave the zero point out",
        )


def _check_shapes(scale: Array, zero: Array, where: str) -> None:
    # A number may be written as a vector of one element.
    if scale.shape != zero.shape and not scale.size == zero.size == 1:
        raise QuantizationError(
            f"{where} has a zero point of the shape {zero.shape}, its scale has {scale.shape}",
            hint="give both one element for the whole tensor, or one for each element of the axis",
        )


def _check_axis(given: Parameters, length: int) -> None:
    shape, axis = given.shape, given.axis
    if shape is None:
        return
    if not -len(shape) <= axis < len(shape):
        raise QuantizationError(
            f"{given.where} has scales along axis {axis}",
            note=f"the tensor has {len(shape)} dimensions, and the scale {length} elements",
            hint="name the axis of the channels: 0 for the weights of a convolution",
        )
    if shape[axis] not in (None, length):
        raise QuantizationError(
            f"{given.where} has {length} scales for {shape[axis]} elements of axis {axis}",
            note=f"the shape of the tensor is {shape}",
            hint="give one scale for each element of the axis, or one number for the tensor",
        )
