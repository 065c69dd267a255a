"""Imports ONNX convolutions of 1, 2 and 3 dimensions as 2-D convolutions of Relax.

Each Conv or ConvTranspose becomes one relax.nn.conv2d or conv2d_transpose, in NCHW, with explicit
padding. A 1-D image becomes a 2-D image of one row. A 3-D filter of T planes becomes a 2-D filter
of T times the channels: the planes that it reads are concatenated along the channels, and every
plane of the output is an image. A Gemm becomes a matrix product, which passes treat as a
convolution of one pixel.

Formulas of auto_pad and output_shape: https://onnx.ai/onnx/operators/onnx__Conv.html and
onnx__ConvTranspose.html.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from tvmconv.errors import UnsupportedOperatorError


@dataclass(frozen=True)
class Attributes:
    """Attributes of a Conv or ConvTranspose, one for each spatial dimension.

    Pads are pairs (before, after).
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    #: A ConvTranspose has negative padding after the last row if output_padding or output_shape ask
    #: for more rows, since Relax allows an output_padding of less than a stride only.
    pads: tuple[tuple[int, int], ...]
    groups: int

    @classmethod
    def read(
        cls, attrs: dict[str, Any], sizes: Sequence[int], taps: Sequence[int], transposed: bool
    ) -> Attributes:
        """Reads ONNX's attributes and resolves auto_pad and output_shape.

        sizes, taps: of the image and the filter, one for each spatial dimension. Raises
        `UnsupportedOperatorError`.
        """
        ones = (1,) * len(sizes)
        strides = tuple(attrs.get("strides", ones))
        dilations = tuple(attrs.get("dilations", ones))
        spans = [(count - 1) * step + 1 for count, step in zip(taps, dilations, strict=True)]
        pads = (_transposed_pads if transposed else _pads)(attrs, sizes, spans, strides)
        return cls(strides, dilations, pads, int(attrs.get("group", 1)))


def _auto_pad(attrs: dict[str, Any]) -> str:
    value = attrs.get("auto_pad", b"NOTSET")
    return value.decode() if isinstance(value, bytes) else value


def _given_pads(attrs: dict[str, Any], count: int) -> tuple[tuple[int, int], ...]:
    flat = tuple(attrs.get("pads", (0,) * 2 * count))
    return tuple(zip(flat[:count], flat[count:], strict=True))


def _split(total: int, upper: bool) -> tuple[int, int]:
    """Splits `total` into (before, after). upper: an odd one goes after."""
    before = total // 2 if upper else total - total // 2
    return before, total - before


def _pads(
    attrs: dict[str, Any], sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    auto = _auto_pad(attrs)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((math.ceil(size / stride) - 1) * stride + span - size, 0)
            for size, span, stride in zip(sizes, spans, strides, strict=True)
        ]
        return tuple(_split(total, auto == "SAME_UPPER") for total in totals)
    if auto == "VALID":
        return ((0, 0),) * len(sizes)
    return _given_pads(attrs, len(sizes))


def _transposed_pads(
    attrs: dict[str, Any], sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    auto, count = _auto_pad(attrs), len(sizes)
    same = auto in ("SAME_UPPER", "SAME_LOWER")
    extra = attrs.get("output_padding", (0,) * count)
    wanted = attrs.get("output_shape")
    if wanted is None and not same:
        given = ((0, 0),) * count if auto == "VALID" else _given_pads(attrs, count)
        return tuple(
            (before, after - more) for (before, after), more in zip(given, extra, strict=True)
        )
    pads = []
    for axis, (size, span, stride, more) in enumerate(
        zip(sizes, spans, strides, extra, strict=True)
    ):
        want = size * stride if wanted is None else list(wanted)[-count:][axis]
        total = stride * (size - 1) + more + span - want
        if -total >= (1 if wanted is None else stride):
            # The formulas give negative pads then, and onnxruntime something else.
            asked = f"auto_pad {auto}" if wanted is None else "output_shape"
            raise UnsupportedOperatorError(
                f"a transposed convolution that gives {want + total} rows or columns, "
                f"where {asked} asks for {want}, can't be built",
                hint="give it explicit pads and output_padding",
            )
        before, after = _split(max(total, 0), auto == "SAME_UPPER")
        pads.append((before, after - more - max(-total, 0)))
    return tuple(pads)


def sizes_of(x: relax.Expr) -> list[int]:
    """Dimensions of a tensor, all of them numbers."""
    return [int(size) for size in x.ty.shape]


def conv(
    bb: relax.BlockBuilder, inputs: Sequence[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr:
    """Imports a Conv: x (N, C, spatial...), weight (K, C/groups, taps...), bias (K,) or None."""
    x, weight, bias = [*inputs, None][:3]
    shape, taps = sizes_of(x), sizes_of(weight)[2:]
    given = Attributes.read(attrs, shape[2:], taps, transposed=False)
    if len(taps) == 1:
        x, weight = _one_row(bb, x), _one_row(bb, weight)
        return _one_line(bb, _in_2d(bb, relax.op.nn.conv2d, x, weight, bias, _rows(given)))
    if len(taps) == 2:
        return _in_2d(bb, relax.op.nn.conv2d, x, weight, bias, given)
    if len(taps) == 3:
        return _conv3d(bb, x, weight, bias, given)
    raise UnsupportedOperatorError(f"a convolution over {len(taps)} dimensions can't be built")


def conv_transpose(
    bb: relax.BlockBuilder, inputs: Sequence[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """Imports a ConvTranspose: x (N, C, spatial...), weight (C, K/groups, taps...), bias (K,) or
    None. Returns None for a 3-D one, which TVM's converter handles.
    """
    x, weight, bias = [*inputs, None][:3]
    shape, taps = sizes_of(x), sizes_of(weight)[2:]
    given = Attributes.read(attrs, shape[2:], taps, transposed=True)
    if len(taps) == 1:
        x, weight = _one_row(bb, x), _one_row(bb, weight)
        return _one_line(
            bb, _in_2d(bb, relax.op.nn.conv2d_transpose, x, weight, bias, _rows(given))
        )
    if len(taps) == 2:
        return _in_2d(bb, relax.op.nn.conv2d_transpose, x, weight, bias, given)
    return None


def _rows(given: Attributes) -> Attributes:
    """Attributes of the 2-D convolution over an image of one row."""
    return Attributes(
        (1, *given.strides),
        (1, *given.dilations),
        ((0, 0), *given.pads),
        given.groups,
    )


def _one_row(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    n, c, size = sizes_of(x)
    return bb.emit(relax.op.reshape(x, (n, c, 1, size)))


def _one_line(bb: relax.BlockBuilder, y: relax.Expr) -> relax.Expr:
    n, k, _, size = sizes_of(y)
    return bb.emit(relax.op.reshape(y, (n, k, size)))


def _biased(bb: relax.BlockBuilder, y: relax.Expr, bias: Any) -> relax.Expr:
    # Bound here, not at its first use: nodes are matched to calls by their order.
    y = bb.emit(y)
    if bias is None:
        return y
    return bb.emit(relax.op.add(y, relax.op.reshape(bias, (1, -1, 1, 1))))


def _in_2d(
    bb: relax.BlockBuilder,
    operator: Callable[..., relax.Expr],
    x: relax.Expr,
    weight: relax.Expr,
    bias: Any,
    given: Attributes,
) -> relax.Expr:
    """Emits a 1-D or 2-D convolution. operator: relax.op.nn.conv2d or conv2d_transpose."""
    (top, bottom), (left, right) = given.pads
    y = operator(
        x,
        weight,
        strides=given.strides,
        padding=(top, left, bottom, right),
        dilation=given.dilations,
        groups=given.groups,
    )
    return _biased(bb, y, bias)


def _conv3d(
    bb: relax.BlockBuilder, x: relax.Expr, weight: relax.Expr, bias: Any, given: Attributes
) -> relax.Expr:
    """Emits a 3-D convolution of x (N, C, D, H, W); the planes that tap t reads become channels."""
    n, c, depth, h, w = sizes_of(x)
    k, group_c, taps, r, s = sizes_of(weight)
    (before, after), *pads = given.pads
    stride, dilation = given.strides[0], given.dilations[0]
    planes = (depth + before + after - dilation * (taps - 1) - 1) // stride + 1
    x = bb.emit(relax.op.nn.pad(x, (0, 0, 0, 0, before, after, 0, 0, 0, 0)))
    slices = []
    for t in range(taps):
        first = t * dilation
        part = relax.op.strided_slice(
            x, [2], [first], [first + (planes - 1) * stride + 1], [stride]
        )
        shape = (n, given.groups, 1, group_c, planes, h, w)
        slices.append(bb.emit(relax.op.reshape(bb.emit(part), shape)))
    read = bb.emit(relax.op.concat(slices, axis=2))  # (N, g, T, C/g, D, H, W)
    images = bb.emit(relax.op.permute_dims(read, (0, 4, 1, 2, 3, 5, 6)))
    images = bb.emit(relax.op.reshape(images, (n * planes, taps * c, h, w)))
    filters = bb.emit(relax.op.permute_dims(weight, (0, 2, 1, 3, 4)))
    filters = bb.emit(relax.op.reshape(filters, (k, taps * group_c, r, s)))
    flat = Attributes(given.strides[1:], given.dilations[1:], tuple(pads), given.groups)
    y = _in_2d(bb, relax.op.nn.conv2d, images, filters, bias, flat)
    p, q = sizes_of(y)[2:]
    y = bb.emit(relax.op.reshape(y, (n, planes, k, p, q)))
    return bb.emit(relax.op.permute_dims(y, (0, 2, 1, 3, 4)))


def gemm(
    bb: relax.BlockBuilder, inputs: Sequence[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr:
    """Imports a Gemm of A, B, and C or None. Beta times a constant C is folded, to be a bias."""
    a, b, c = [*inputs, None][:3]
    dtype = str(a.ty.dtype)

    def times(x: relax.Expr, factor: float) -> relax.Expr:
        if factor == 1:
            return x
        if isinstance(x, tvm.ir.GenericConst):
            return relax.const((factor * x.value.numpy()).astype(dtype))
        return bb.emit(relax.op.multiply(x, relax.const(factor, dtype)))

    a = bb.emit(relax.op.permute_dims(a)) if attrs.get("transA") else a
    b = bb.emit(relax.op.permute_dims(b)) if attrs.get("transB") else b
    # Bound here, not at its first use: nodes are matched to calls by their order.
    y = times(bb.emit(relax.op.matmul(a, b)), attrs.get("alpha", 1.0))
    beta = attrs.get("beta", 1.0)
    return y if c is None or beta == 0 else relax.op.add(y, times(c, beta))
