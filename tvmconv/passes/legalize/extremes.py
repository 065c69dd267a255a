"""MaxPool, ReduceMax, ReduceMin and Sign as loops, right for infinities and NaN.

    max pool:   the largest element of a window, where -inf is around the image
    max, min:   of nothing -inf, inf
    sign(x):    1 where x > 0, -1 where x < 0, else x, which is 0 or NaN

TVM's begin with the largest finite number in place of an infinity, which would come out for a
window of infinities, and its sign of NaN is 0. That NaN is larger, and smaller, than all others is
left to `schedules.keep_nan`.

https://onnx.ai/onnx/operators/onnx__MaxPool.html, onnx__ReduceMax.html, onnx__Sign.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import tvm_ffi
from tvm import relax, te, tirx

from schedules.keep_nan import is_float

Legalize = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def _least(dtype: str) -> Any:
    """The number that is less than all others of a dtype."""
    return tirx.const(-math.inf, dtype) if is_float(str(dtype)) else tirx.min_value(dtype)


def _greatest(dtype: str) -> Any:
    return tirx.const(math.inf, dtype) if is_float(str(dtype)) else tirx.max_value(dtype)


#: Reductions that begin with an infinity.
LARGEST = te.comm_reducer(lambda x, y: te.max(x, y), _least, name="largest")
SMALLEST = te.comm_reducer(lambda x, y: te.min(x, y), _greatest, name="smallest")


def _register() -> None:
    """Tells TVM of both: its schedules split reductions among threads if they know them."""
    register = tvm_ffi.get_global_func("s_tir.schedule.RegisterReducer")
    for name, join, first in (("largest", te.max, _least), ("smallest", te.min, _greatest)):
        # Global functions, which live longer than TVM's list of reducers: that goes when Python has
        # gone, and can't end functions of Python's.
        combine = tvm_ffi.register_global_func(
            f"tvmconv.{name}.combine", lambda x, y, join=join: [join(x[0], y[0])], override=True
        )
        identity = tvm_ffi.register_global_func(
            f"tvmconv.{name}.identity",
            lambda values, first=first: [first(values[0].ty.dtype)],
            override=True,
        )
        register(1, combine, identity)


_register()


def _reduction(reducer: Callable[..., Any], name: str) -> Legalize:
    """Returns the loops of relax.max or relax.min."""

    def legalized(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        rank, keepdims = call.args[0].ty.ndim, bool(call.attrs.keepdims)
        given = call.attrs.axis
        axes = [*range(rank)] if given is None else [int(axis) % rank for axis in given]

        def compute(x: te.Tensor) -> te.Tensor:
            kept = [axis for axis in range(rank) if axis not in axes]
            shape = [x.shape[i] if i in kept else 1 for i in range(rank) if keepdims or i in kept]
            reduced = {axis: te.reduce_axis((0, x.shape[axis]), f"k{axis}") for axis in axes}

            def element(*index: Any) -> Any:
                place = dict(zip(range(rank) if keepdims else kept, index, strict=True))
                read = [reduced[i].var if i in reduced else place[i] for i in range(rank)]
                return reducer(x(*read), axis=list(reduced.values()))

            return te.compute(shape, element if reduced else lambda *i: x(*i), name=f"{name}_red")

        return builder.call_te(compute, call.args[0], primfunc_name_hint=name)

    return legalized


def _max_pool(name: str) -> Legalize:
    """Returns the loops of relax.nn.max_pool1d, 2d or 3d."""

    def legalized(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        attrs, sizes = call.attrs, [int(size) for size in call.ty.shape]
        spatial = [i for i, letter in enumerate(str(attrs.layout)) if letter in "DHW"]
        rank = len(spatial)
        taps, strides, dilations, before = (
            [int(one) for one in numbers][:rank]
            for numbers in (attrs.pool_size, attrs.strides, attrs.dilation, attrs.padding)
        )

        def compute(x: te.Tensor) -> te.Tensor:
            shape = [int(size) for size in x.shape]
            padded = list(shape)
            for i, axis in enumerate(spatial):
                reach = (sizes[axis] - 1) * strides[i] + (taps[i] - 1) * dilations[i] + 1
                padded[axis] = max(reach, shape[axis] + before[i])
            source = x if padded == shape else te.compute(padded, around(x), name="pad_temp")
            windows = [te.reduce_axis((0, count), f"rv{i}") for i, count in enumerate(taps)]

            def element(*index: Any) -> Any:
                place = list(index)
                for i, axis in enumerate(spatial):
                    place[axis] = index[axis] * strides[i] + windows[i].var * dilations[i]
                return LARGEST(source(*place), axis=windows)

            return te.compute(sizes, element, name="pool_max")

        def around(x: te.Tensor) -> Callable[..., Any]:
            def element(*index: Any) -> Any:
                place, inside = list(index), []
                for i, axis in enumerate(spatial):
                    place[axis] = index[axis] - before[i]
                    inside += [index[axis] >= before[i], index[axis] < x.shape[axis] + before[i]]
                return tirx.if_then_else(tirx.all(*inside), x(*place), _least(x.dtype))

            return element

        return builder.call_te(compute, call.args[0], primfunc_name_hint=name)

    return legalized


def _sign(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    signed = not str(call.ty.dtype).startswith("uint")

    def compute(x: te.Tensor) -> te.Tensor:
        zero, one = tirx.const(0, x.dtype), tirx.const(1, x.dtype)

        def element(*index: Any) -> Any:
            value = x(*index)
            rest = tirx.Select(value < zero, tirx.const(-1, x.dtype), value) if signed else value
            return tirx.Select(value > zero, one, rest)

        return te.compute(x.shape, element, name="sign")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="sign")


#: By operator.
EXTREMES: Mapping[str, Legalize] = {
    "relax.max": _reduction(LARGEST, "max"),
    "relax.min": _reduction(SMALLEST, "min"),
    **{f"relax.nn.max_pool{n}d": _max_pool(f"max_pool{n}d") for n in (1, 2, 3)},
    "relax.sign": _sign,
}
