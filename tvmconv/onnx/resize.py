"""Resize and Upsample by the ONNX specification, one axis after the other.

The indices and weights of the inputs of an output element depend on shapes alone, so they are
constants, and an axis is resized by a weighted sum of a few gathers. TVM's operator repeats pixels
faster, and gets other forms wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

Array = NDArray[Any]

#: Coordinate modes and roundings that repeat every pixel if scales are whole numbers.
REPEATS = {
    ("asymmetric", "floor"),
    ("tf_half_pixel_for_nn", "floor"),
    *product(("half_pixel", "pytorch_half_pixel"), ("round_prefer_floor", "round_prefer_ceil")),
}
#: Position in the input of output element i; n and m: sizes of input and output; s: the scale.
COORDINATES: dict[str, Callable[[Array, int, int, Any], Array]] = {
    "half_pixel": lambda i, n, m, s: (i + 0.5) / s - 0.5,
    "half_pixel_symmetric": lambda i, n, m, s: n / 2 * (1 - m / (s * n)) + (i + 0.5) / s - 0.5,
    "pytorch_half_pixel": lambda i, n, m, s: (i + 0.5) / s - 0.5 if m > 1 else 0.0 * i,
    "align_corners": lambda i, n, m, s: i * (n - 1) / (m - 1) if m > 1 else 0.0 * i,
    "asymmetric": lambda i, n, m, s: i / s,
    "tf_half_pixel_for_nn": lambda i, n, m, s: (i + 0.5) / s,
}
ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
MODES = ("nearest", "linear", "cubic")


#: Beside ONNX's attributes: True if nearest rounds up along an axis that becomes smaller.
SHRINKS_UP = "shrinks_up"


def attributes(given: Mapping[str, Any], old: bool = False) -> dict[str, Any]:
    """Fills in defaults of ONNX's attributes. old: for Upsample, and Resize before opset 11, which
    round down where they enlarge an axis, and up where they shrink it, as onnxruntime does."""
    coordinates, rounding = ("asymmetric", "floor") if old else ("half_pixel", "round_prefer_floor")
    defaults = {
        "mode": "nearest",
        "coordinate_transformation_mode": coordinates,
        "nearest_mode": rounding,
        "cubic_coeff_a": -0.75,
        "exclude_outside": 0,
        "antialias": 0,
        "keep_aspect_ratio_policy": "stretch",
    }
    said = {k: v.decode() if isinstance(v, bytes) else v for k, v in given.items()}
    said = {name: value for name, value in said.items() if name in defaults}
    return {**defaults, **said, SHRINKS_UP: old}


def repeats(
    shape: Sequence[int],
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    how: Mapping[str, Any],
) -> bool:
    """True if the resize only repeats every pixel."""
    if scales is None:
        scales = [y / x for x, y in zip(shape, sizes or shape, strict=True)]
    return (
        how["mode"] == "nearest"
        and (how["coordinate_transformation_mode"], how["nearest_mode"]) in REPEATS
        and len(shape) in (3, 4, 5)
        and list(scales[:2]) == [1, 1]
        and all(scale >= 1 and scale == int(scale) for scale in scales)
    )


def taps(
    size: int, resized: int, scale: float, how: Mapping[str, Any]
) -> list[tuple[Array, Array]]:
    """Terms of the sum that resizes an axis of `size` elements: indices and weights, of `resized`
    elements each.

    how: all of ONNX's attributes, as `attributes` returns them.
    """
    # In fp32, like onnxruntime: whether 3 / 0.6 is 5 or less decides which element is read.
    x = COORDINATES[how["coordinate_transformation_mode"]](
        np.arange(resized, dtype="float32"), size, resized, np.float32(scale)
    )
    if how["mode"] == "nearest":
        rounding = "ceil" if how[SHRINKS_UP] and scale < 1 else how["nearest_mode"]
        at = ROUNDINGS[rounding](x)
        return [(_within(at, size), np.ones(resized))]
    base = np.floor(x)
    part = x - base
    if how["mode"] == "linear":
        offsets, weights = [0, 1], [1 - part, part]
    else:
        offsets = [-1, 0, 1, 2]
        weights = [_cubic(np.abs(part - offset), how["cubic_coeff_a"]) for offset in offsets]
    positions = [base + offset for offset in offsets]
    if how["exclude_outside"]:
        weights = [w * ((p >= 0) & (p < size)) for p, w in zip(positions, weights, strict=True)]
        total = np.sum(weights, axis=0)
        weights = [w / total for w in weights]
    return [(_within(p, size), w) for p, w in zip(positions, weights, strict=True)]


def _within(positions: Array, size: int) -> Array:
    return np.clip(positions, 0, size - 1).astype("int64")


def _cubic(distance: Array, a: float) -> Array:
    """The weight of an element at a distance of up to 2."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return np.where(distance <= 1, near, far)


def resize(
    builder: relax.BlockBuilder,
    x: relax.Expr,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    how: Mapping[str, Any],
) -> relax.Expr:
    """Resizes `x`, by scales or to sizes, one for each of its axes."""
    shape = [int(size) for size in x.ty.shape]
    dtype = str(x.ty.dtype)
    for axis, size in enumerate(shape):
        if scales is not None:
            # In fp32, like the specification's example: 0.6 * 5 is 3.
            scale, resized = float(scales[axis]), math.floor(np.float32(scales[axis]) * size)
        elif sizes is not None:
            scale, resized = sizes[axis] / size, int(sizes[axis])
        if scale == 1:
            continue
        terms = []
        for indices, weights in taps(size, resized, scale, how):
            term = relax.op.take(x, relax.const(indices), axis, mode="clip")
            if how["mode"] != "nearest":
                broadcast = [resized if one == axis else 1 for one in range(len(shape))]
                factors = weights.reshape(broadcast).astype(dtype)
                term = relax.op.multiply(builder.emit(term), relax.const(factors))
            terms.append(builder.emit(term))
        x = terms[0]
        for term in terms[1:]:
            x = builder.emit(relax.op.add(x, term))
    return x
