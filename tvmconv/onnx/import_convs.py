"""Convolutions of ONNX in any number of dimensions, as 2-D convolutions of Relax.

Conv and ConvTranspose come out as one relax.nn.conv2d or conv2d_transpose each, in NCHW, with
explicit padding. A 1-D image is 2-D and one row high. A 3-D filter of T planes is a 2-D one over
T times the channels: the planes that it reads are put side by side as channels, and the planes of
its output are images of their own. A Gemm is the matrix product that passes take for a convolution
of one pixel.

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
    """What a Conv or ConvTranspose says of each spatial dimension; pads as (before, after)."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    #: Of ConvTranspose negative after the last row where output_padding or output_shape ask for
    #: more rows than there are: of output_padding Relax allows less than a stride.
    pads: tuple[tuple[int, int], ...]
    groups: int

    @classmethod
    def read(
        cls, attrs: dict[str, Any], sizes: Sequence[int], taps: Sequence[int], transposed: bool
    ) -> Attributes:
        """sizes: of the image; taps: of the filter; one for each spatial dimension."""
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


def _halves(total: int, upper: bool) -> tuple[int, int]:
    """`total` shared between before and after; ``upper``: the odd one comes after."""
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
        return tuple(_halves(total, auto == "SAME_UPPER") for total in totals)
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
        before, after = _halves(max(total, 0), auto == "SAME_UPPER")
        pads.append((before, after - more - max(-total, 0)))
    return tuple(pads)


def sizes_of(x: relax.Expr) -> list[int]:
    return [int(size) for size in x.ty.shape]


def conv(
    bb: relax.BlockBuilder, inputs: Sequence[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr:
    """Inputs: x (N, C, spatial...), weight (K, C/groups, taps...), bias (K,) or None."""
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
    """Inputs: x (N, C, spatial...), weight (C, K/groups, taps...), bias (K,) or None. TVM has 3-D
    ones of its own."""
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
    """Of an image of one row."""
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
    # Bound now and not where it is first used: `regions` knows nodes by their order.
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
    """operator: relax.op.nn.conv2d or conv2d_transpose."""
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
    """x (N, C, D, H, W): the planes that tap t reads become channels of their own."""
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
    """Inputs: A, B, C or None. Beta times a constant C is one constant, which can be a bias."""
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
    # Bound now and not where it is first used: `regions` knows nodes by their order.
    y = times(bb.emit(relax.op.matmul(a, b)), attrs.get("alpha", 1.0))
    beta = attrs.get("beta", 1.0)
    return y if c is None or beta == 0 else relax.op.add(y, times(c, beta))
