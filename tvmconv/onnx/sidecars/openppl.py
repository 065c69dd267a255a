"""OpenPPL's quantisation file: JSON with a range for every tensor.

    {"quant_info": {"TENSOR": {"bit_width": 8, "per_channel": false, "quant_flag": true,
                               "scale": 0.0207, "zero_point": 128, "q_min": 0, "q_max": 255,
                               "tensor_min": -2.64, "tensor_max": 2.64}},
     "op_info": {"NODE": {"data_type": "INT8"}}}

`scale` and `zero_point` are used where they are given. Its own engine uses the largest magnitude of
`tensor_min` and `tensor_max` instead, divided by 127, which is used where they are not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from tvmconv.errors import QuantizationError
from tvmconv.onnx.sidecars.sidecar import Scale, Sidecar

KEYS = ("quant_info", "op_info")
BITS = 8
#: The data type of a node that is quantised.
INT8 = "INT8"
#: The numbers that a quantised tensor may have, and whether they are signed.
RANGES = {True: (-128, 127), False: (0, 255)}


def parse(text: str, source: str) -> Sidecar:
    """Reads the text of a file. Raises `QuantizationError`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise QuantizationError(
            f"{source} is neither JSON nor a calibration cache",
            note=str(error),
            hint="is it complete? A cache begins with TRT-, JSON with {",
        ) from error
    wrong = sorted(set(data) - {*KEYS}) if isinstance(data, dict) else None
    if wrong is None or wrong or KEYS[0] not in data:
        raise QuantizationError(
            f"{source} is not OpenPPL's quantisation file",
            note=f"it has {', '.join(map(repr, wrong))}" if wrong else "",
            hint=f"its keys are {KEYS[0]}, and {KEYS[1]} if nodes are chosen",
        )
    tensors = _mapping(data[KEYS[0]], f"{source}: {KEYS[0]}")
    nodes = _mapping(data.get(KEYS[1], {}), f"{source}: {KEYS[1]}")
    scales, per_channel, left = {}, set(), set()
    for name, entry in tensors.items():
        where = f"{source}: tensor {name!r}"
        fields = _mapping(entry, where)
        if not fields.get("quant_flag", True):
            left.add(name)
            continue
        bits = fields.get("bit_width", BITS)
        if bits != BITS:
            raise QuantizationError(
                f"{where} has {bits!r} bits",
                note=f"tensors are quantised to {BITS} bits",
                hint="write quant_flag false, and it stays in floating point",
            )
        if fields.get("per_channel", False):
            per_channel.add(name)
        else:
            scales[name] = _scale(fields, where)
    as_float = {
        name
        for name, entry in nodes.items()
        if _mapping(entry, f"{source}: node {name!r}").get("data_type", INT8) != INT8
    }
    return Sidecar(source, scales, per_channel, left, as_float)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise QuantizationError(
            f"{where} is {type(value).__name__}, not an object", hint="write {...}, with its fields"
        )
    return value


def _scale(fields: Mapping[str, Any], where: str) -> Scale:
    """The scale of a tensor from its fields. Raises `QuantizationError`."""
    if "scale" not in fields:
        largest = max(abs(_number(fields, name, where)) for name in ("tensor_min", "tensor_max"))
        return Scale(largest / RANGES[True][1])
    scale = _number(fields, "scale", where)
    zero = _number(fields, "zero_point", where) if "zero_point" in fields else 0.0
    low = _number(fields, "q_min", where) if "q_min" in fields else RANGES[zero <= 0][0]
    high = _number(fields, "q_max", where) if "q_max" in fields else RANGES[zero <= 0][1]
    signed = low < 0
    limits = RANGES[signed]
    if not (limits[0] <= low < high <= limits[1]):
        raise QuantizationError(
            f"{where} is quantised to {low:g} to {high:g}",
            note="int8 holds -128 to 127, uint8 0 to 255",
            hint="write q_min and q_max within one of them",
        )
    if zero != math.floor(zero) or not low <= zero <= high:
        raise QuantizationError(
            f"{where} has a zero point of {zero:g}",
            note=f"a zero point is a whole number, here from {low:g} to {high:g}",
            hint="calibrate the model anew",
        )
    return Scale(scale, int(zero), signed)


def _number(fields: Mapping[str, Any], name: str, where: str) -> float:
    """A finite number of a field. Raises `QuantizationError`."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise QuantizationError(
            f"{where} has {name} {value!r}" if name in fields else f"{where} has no {name}",
            note="a tensor with one scale needs scale, or tensor_min and tensor_max",
            hint="write a finite number; a list only where per_channel is true",
        )
    return float(value)
