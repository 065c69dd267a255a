"""Convolutions in TVM's tensor expressions.

`implicit_gemm` is one definition for every layout: a GEMM whose rows are output pixels, whose
columns are output channels, and whose inner dimension numbers filter taps and input channels.

    X[o, m, i]  the gather: what row m reads at reduction step (o, i); lives in shared memory only
    Conv[m, k]  sum over o, i of X[o, m, i] * Weight[o, i/16, k/16, i%16, k%16]
    Y[...]      activation(Conv + Bias + Residual), cast, in the output's layout

A layout only decides how m numbers the pixels (`gemm.pixel`) and where an element
lies (`Layout.index`). `gemm.Reduction` decides how (o, i) numbers taps and channels. Whatever is no
multiple of a tile is padded: with zeros in the gather and in the packed weight.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from schedules.gemm import Gemm, Tile, gemm_index, pixel
from schedules.workload import Activation, ConvWorkload, ceil_div, round_up

#: Block names that the schedules look for.
GATHER, CONV, EPILOGUE, OUT = "gather", "conv", "epilogue", "out"


def activate(activation: Activation, value: Any) -> Any:
    """The activation as a TVM expression over an fp32 value.

    Written with comparisons that a NaN fails, because maximum and minimum would hide it.
    """
    if activation.kind == "none":
        return value
    low = tirx.const(activation.low if activation.kind == "clip" else 0.0, "float32")
    value = tirx.Select(value < low, low, value)
    if activation.kind == "relu":
        return value
    high = tirx.const(activation.high, "float32")
    return tirx.Select(value > high, high, value)


def finish(w: ConvWorkload, total: Any, k: Any, bias: Any, residual: Any, at: Any) -> Any:
    """The epilogue of one output: fp32 sum `total` of channel k, at element `at` = (n, p, q, k)."""
    value = total if w.accumulator_dtype == "float32" else total.astype("float32")
    if bias is not None:
        value = value + bias[k]
    if residual is not None:
        value = value + _residual(w, residual, *at).astype("float32")
    return activate(w.epilogue.activation, value).astype(w.epilogue.out_dtype)


def _residual(w: ConvWorkload, residual: Any, n: Any, p: Any, q: Any, k: Any) -> Any:
    """Element of the residual; zero where the output's layout is padded and the residual's not."""
    layout, out = w.epilogue.residual_layout, w.out_layout
    conditions = [
        index < layout_size
        for index, layout_size, out_size in (
            (n, round_up(w.n, layout.n), round_up(w.n, out.n)),
            (k, round_up(w.k, layout.c or w.k), round_up(w.k, out.c or w.k)),
        )
        if layout_size < out_size
    ]
    return _where(conditions, residual(*layout.index(n, p, q, k)))


def _where(conditions: list[Any], value: Any) -> Any:
    """The fp16 value where all conditions hold, elsewhere zero and nothing is read."""
    if not conditions:
        return value
    return tirx.if_then_else(tirx.all(*conditions), value, tirx.const(0, "float16"))


def implicit_gemm(w: ConvWorkload, tile: Tile) -> tirx.PrimFunc:
    """The convolution as ``(x, weight[, bias][, residual]) -> y``.

    x fp16 in ``in_layout``; weight and bias as `gemm.pack_weight` and `gemm.pack_bias` give
    them;
    residual fp16 in its layout; y ``out_dtype`` in ``out_layout``. One group only.
    """
    gemm = Gemm.of(w, tile)
    x = te.placeholder(w.in_shape, "float16", name="x")
    weight = te.placeholder(gemm.weight_shape, "float16", name="weight")
    bias = (
        te.placeholder((gemm.weight_columns,), "float32", name="bias") if w.epilogue.bias else None
    )
    residual = None
    if w.epilogue.residual:
        residual = te.placeholder(w.residual_shape, "float16", name="residual")

    gather = te.compute(
        (gemm.reduction.outer, gemm.m_pad, gemm.i_pad),
        lambda o, m, i: _gathered(w, gemm, x, o, m, i),
        name=GATHER,
    )
    o = te.reduce_axis((0, gemm.reduction.outer), "o")
    i = te.reduce_axis((0, gemm.i_pad), "i")
    fi, fk = tile.fragment_i, tile.fragment_k
    dtype = w.accumulator_dtype

    conv = te.compute(
        (gemm.m_pad, gemm.k_pad),
        lambda m, k: te.sum(
            gather[o, m, i].astype(dtype)
            * weight[o, i // fi, k // fk, i % fi, k % fk].astype(dtype),
            axis=[o, i],
        ),
        name=CONV,
    )

    # Exactly the output's rows and columns: what it reads of the bias exists.
    epilogue = te.compute(
        (gemm.m, w.k_stored),
        lambda m, k: finish(w, conv[m, k], k, bias, residual, (*pixel(w, m), k)),
        name=EPILOGUE,
    )
    y = te.compute(w.out_shape, lambda *index: epilogue(*gemm_index(w, *index)), name=OUT)
    inputs = [tensor for tensor in (x, weight, bias, residual) if tensor is not None]
    return te.create_prim_func([*inputs, y])


def direct(w: ConvWorkload) -> tirx.PrimFunc:
    """The convolution as its definition, any groups: ``(x, weight[, bias][, residual]) -> y``.

    weight fp16 (R, S, C/groups, K) with K rounded up to the output's channel block, bias fp32
    of the same K; the rest as in `implicit_gemm`. Sums in fp32.
    """
    k_out = w.k_stored
    group_c, group_k = w.c // w.groups, w.k // w.groups
    x = te.placeholder(w.in_shape, "float16", name="x")
    weight = te.placeholder((w.r, w.s, group_c, k_out), "float16", name="weight")
    bias = te.placeholder((k_out,), "float32", name="bias") if w.epilogue.bias else None
    residual = None
    if w.epilogue.residual:
        residual = te.placeholder(w.residual_shape, "float16", name="residual")
    r, s = te.reduce_axis((0, w.r), "r"), te.reduce_axis((0, w.s), "s")
    c = te.reduce_axis((0, group_c), "c")

    def conv(*index: Any) -> Any:
        n, p, q, k = w.out_layout.element(*index)
        channel = k // group_k * group_c + c
        inside = [k < w.k] * (k_out > w.k) + [channel < w.c] * (k_out > w.k)
        value = _input(w, x, n, p, q, r, s, channel, inside, round_up(w.n, w.out_layout.n))
        return te.sum(value.astype("float32") * weight[r, s, c, k].astype("float32"), [r, s, c])

    sums = te.compute(w.out_shape, conv, name=CONV)

    def out(*index: Any) -> Any:
        at = w.out_layout.element(*index)
        return finish(w, sums(*index), at[3], bias, residual, at)

    y = te.compute(w.out_shape, out, name=OUT)
    inputs = [tensor for tensor in (x, weight, bias, residual) if tensor is not None]
    return te.create_prim_func([*inputs, y])


def _gathered(w: ConvWorkload, gemm: Gemm, x: Any, o: Any, m: Any, i: Any) -> Any:
    """What row m reads at (o, i): an input element, or zero where there is none."""
    r, s, c = gemm.reduction.tap(w, o, i)
    n, p, q = pixel(w, m)
    readable = gemm.reduction.inner
    if w.in_layout.packed and not gemm.reduction.by_rows:
        readable = round_up(w.c, w.in_layout.c)  # whole blocks: the weight is zero past C
    inside = [i < readable] if gemm.i_pad > readable else []
    return _input(w, x, n, p, q, r, s, c, inside, ceil_div(gemm.m_pad, w.p * w.q))


def _input(
    w: ConvWorkload,
    x: Any,
    n: Any,
    p: Any,
    q: Any,
    r: Any,
    s: Any,
    c: Any,
    inside: list[Any],
    batches: int,
) -> Any:
    """Element of x that output pixel (n, p, q) multiplies with tap (r, s) of channel c.

    Zero in the padding, and where a condition of `inside` fails; `batches` is one past the
    largest n asked for. A packed input can be read up to whole blocks of batches.
    """
    h = p * w.stride[0] + r * w.dilation[0] - w.padding[0]
    v = q * w.stride[1] + s * w.dilation[1] - w.padding[1]
    readable = round_up(w.n, w.in_layout.n)
    conditions = [
        condition
        for needed, condition in (
            (w.padding[0] > 0, h >= 0),
            (_rows_read(w.p, w.r, w.stride[0], w.dilation[0], w.padding[0]) > w.h, h < w.h),
            (w.padding[1] > 0, v >= 0),
            (_rows_read(w.q, w.s, w.stride[1], w.dilation[1], w.padding[1]) > w.w, v < w.w),
            (batches > readable, n < readable),
        )
        if needed
    ] + inside
    return _where(conditions, x(*w.in_layout.index(n, h, v, c)))


def _rows_read(outs: int, taps: int, stride: int, dilation: int, before: int) -> int:
    """One past the last input row (or column) that any output reads."""
    return (outs - 1) * stride + (taps - 1) * dilation - before + 1
