"""Convolutions in TVM's tensor expressions.

`implicit_gemm` is one definition for every layout: a GEMM whose rows are output pixels, whose
columns are output channels, and whose inner dimension numbers filter taps and input channels.

    X[g, o, m, i]  the gather: the input of row m at (o, i), times its gate; only in shared memory
    Conv[g, m, k]  sum over o, i of X[g, o, m, i] * Weight[g, o, i/16, k/16, i%16, k%16]
    Y[...]         activation(Conv + Bias + Residual), cast, in the output's layout

A layout only decides how m numbers the pixels (`gemm.pixel`) and where an element
lies (`Layout.index`). `gemm.Reduction` decides how (o, i) numbers taps and channels. Sizes that are
not multiples of a tile are padded, with zeros in the gather and in the packed weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tvm
from tvm import te, tirx
from tvm.ir import Expr

from intrinsics import dtypes
from intrinsics.dtypes import FP32
from schedules.conv.activations import IDENTITY, Activation
from schedules.conv.gemm import Gemm, Tile, gemm_index, pixel
from schedules.conv.precision import RESIDUAL_SCALE, RESULT_SCALE, RESULT_ZERO, SCALE
from schedules.conv.signature import (
    BIAS,
    GATE,
    RESIDUAL,
    SLOPE,
    WEIGHT,
    Signature,
    X,
    channel_operands,
)
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.expressions.window import in_window

# TVM says so of every other rounding; without it a vector of results is rounded one by one.
tvm.ir.register_op_attr("tirx.nearbyint", "TVectorizable", True)

#: Block names that the schedules look for.
GATHER, CONV, EPILOGUE, OUT = "gather", "conv", "epilogue", "out"


class TvmMath:
    """The operations of activations, on fp32 TVM expressions."""

    sigmoid, tanh = staticmethod(tirx.sigmoid), staticmethod(tirx.tanh)
    erf, select = staticmethod(tirx.erf), staticmethod(tirx.Select)

    @staticmethod
    def real(value: float) -> Expr:
        """Returns an fp32 constant."""
        return tirx.const(value, FP32.name)


#: Placeholders of a kernel's operands by name, without the result.
Placeholders = Mapping[str, te.Tensor]


def placeholders(signature: Signature) -> Placeholders:
    """Declares all operands but the result."""
    *inputs, _ = signature
    return {one.name: te.placeholder(one.shape, one.dtype, name=one.name) for one in inputs}


def function(w: ConvWorkload, operands: Placeholders, y: te.Tensor) -> tirx.PrimFunc:
    """Returns the unscheduled function of all operands, with y in the workload's window."""
    return in_window(w, te.create_prim_func([*operands.values(), y]))


def finish(w: ConvWorkload, operands: Placeholders, total: Expr, at: Sequence[Expr]) -> Expr:
    """Returns one output. total: its accumulator. at: its (n, p, q, k)."""
    given = {name: operands[name][at[3]] for name in channel_operands(w)}
    if RESIDUAL in operands:
        given[RESIDUAL] = _residual(w, operands[RESIDUAL], *at)
    return finished(w, total, given)


def finished(w: ConvWorkload, total: Expr, given: Mapping[str, Expr]) -> Expr:
    """Returns the epilogue's formula, in fp32, cast to the result's dtype.

        activation(total * scale + bias + residual * residual_scale) * result_scale

    with the residual after the activation if it is last. Scales that the workload lacks are 1. A
    sum of integers that is the result stays as it is.

    total: in the accumulator's dtype. given: by name the element of each of `channel_operands`, in
    fp32, and of the residual if there is one, in its own dtype.
    """
    own = w.precision
    if own.sums:
        return total
    value = _real(w, w.epilogue.activation, total, given)
    if dtypes.get(own.result).integer:
        return quantised(value, given.get(RESULT_ZERO), own.result)
    return value.astype(own.result)


def before_rounding(w: ConvWorkload, total: Expr, given: Mapping[str, Expr]) -> Expr:
    """Returns what `finished` rounds to an integer, ties to even, adds the zero point to, and
    saturates, for kernels that do so by themselves.

    Limits of an activation that does nothing but limit are left out where the dtype has them. A
    residual may also be given in fp32.
    """
    value, bounds = unlimited(w, total, given), last_bounds(w)
    if bounds is None:
        return value
    limits, shifted = np.iinfo(dtypes.get(w.precision.result).numpy), RESULT_ZERO in given
    low, high = bounds
    if low > (-np.inf if shifted else limits.min):
        value = tirx.max(value, TvmMath.real(low))
    if high < (np.inf if shifted else limits.max):
        value = tirx.min(value, TvmMath.real(high))
    return value


def last_bounds(w: ConvWorkload) -> tuple[float, float] | None:
    """Returns the limits of an activation that does nothing but limit, and is the last before
    results are rounded; None where there is no such activation."""
    if w.epilogue.residual_last or RESULT_SCALE in w.precision.scales:
        return None
    return w.epilogue.activation.bounds


def unlimited(w: ConvWorkload, total: Expr, given: Mapping[str, Expr]) -> Expr:
    """Returns what `finished` limits to `last_bounds`, rounds, adds the zero point to and limits to
    the dtype, for kernels that do so by themselves. given: as for `finished`."""
    activation = w.epilogue.activation if last_bounds(w) is None else IDENTITY
    return _real(w, activation, total, given)


def _real(w: ConvWorkload, activation: Activation, total: Expr, given: Mapping[str, Expr]) -> Expr:
    """Returns the formula of `finished` before it is cast, with this activation."""
    epilogue, own = w.epilogue, w.precision
    value = _times(_wide(total, own.accumulator), given.get(SCALE))
    if BIAS in given:
        value = value + given[BIAS]
    if epilogue.residual_last:
        value = activation.apply(TvmMath, value, given.get(SLOPE))
    if RESIDUAL in given:
        residual = _wide(given[RESIDUAL], own.added)
        value = value + _times(residual, given.get(RESIDUAL_SCALE))
    if not epilogue.residual_last:
        value = activation.apply(TvmMath, value, given.get(SLOPE))
    return _times(value, given.get(RESULT_SCALE))


def quantised(value: Expr, zero: Expr | None, dtype: str) -> Expr:
    """Returns ``saturate(round(value) + zero)``, ties to even, as ONNX's QuantizeLinear defines it.

    value and zero: fp32, zero a whole number. In fp32 the sum is exact wherever it does not
    saturate.
    """
    limits = np.iinfo(dtypes.get(dtype).numpy)
    rounded = tirx.nearbyint(value)
    rounded = rounded if zero is None else rounded + zero
    low, high = TvmMath.real(float(limits.min)), TvmMath.real(float(limits.max))
    return tirx.max(tirx.min(rounded, high), low).astype(dtype)


def _times(value: Expr, scale: Expr | None) -> Expr:
    return value if scale is None else value * scale


def _wide(value: Expr, dtype: str) -> Expr:
    return value if dtype == FP32.name else value.astype(FP32.name)


def _residual(w: ConvWorkload, residual: te.Tensor, n: Expr, p: Expr, q: Expr, k: Expr) -> Expr:
    """Returns an element of the residual, or zero if only the output's layout has it as padding."""
    layout, out = w.epilogue.residual_layout, w.out_layout
    conditions = [
        index < layout_size
        for index, layout_size, out_size in (
            (n, round_up(w.n, layout.n), round_up(w.n, out.n)),
            (k, round_up(w.k, layout.c or w.k), round_up(w.k, out.c or w.k)),
        )
        if layout_size < out_size
    ]
    if w.window is not None:
        p, q = w.window.pixel(p, q)
    return _where(conditions, residual(*layout.index(n, p, q, k)))


def _where(conditions: list[Expr], value: Expr) -> Expr:
    """Returns the value if all conditions hold, else zero without reading."""
    if not conditions:
        return value
    return tirx.if_then_else(tirx.all(*conditions), value, tirx.const(0, value.ty.dtype))


#: ``product(gemm, X, Weight, accumulator)`` is the tensor Conv[g, m, k] of padded extents.
Product = Callable[[Gemm, te.Tensor, te.Tensor, str], te.Tensor]


def summed(gemm: Gemm, x: te.Tensor, weight: te.Tensor, dtype: str) -> te.Tensor:
    """Returns the sum by its definition, for schedules to tensorize."""
    o = te.reduce_axis((0, gemm.reduction.outer), "o")
    i = te.reduce_axis((0, gemm.i_pad), "i")
    fi, fk = gemm.tile.fragment_i, gemm.tile.fragment_k
    return te.compute(
        (gemm.groups, gemm.m_pad, gemm.k_pad),
        lambda g, m, k: te.sum(
            x[g, o, m, i].astype(dtype)
            * weight[g, o, i // fi, k // fk, i % fi, k % fk].astype(dtype),
            axis=[o, i],
        ),
        name=CONV,
    )


def implicit_gemm(w: ConvWorkload, tile: Tile, product: Product = summed) -> tirx.PrimFunc:
    """Returns the convolution as a function of its operands.

    The weight comes from `gemm.pack_weight`. The gather casts x to the dtype that is multiplied.
    """
    gemm = Gemm.of(w, tile)
    operands = placeholders(Signature.of(w, gemm.weight_shape))
    multiplied = w.precision.operands[0]
    gather = te.compute(
        (w.groups, gemm.reduction.outer, gemm.m_pad, gemm.i_pad),
        lambda g, o, m, i: _gathered(w, gemm, operands, g, o, m, i).astype(multiplied),
        name=GATHER,
    )
    conv = product(gemm, gather, operands[WEIGHT], w.precision.accumulator)

    def finishing(g: Expr, m: Expr, k: Expr) -> Expr:
        return finish(w, operands, conv[g, m, k], (*pixel(w, m), g * w.group_k + k))

    # Exactly the output's rows and columns, so that it stays inside the bias.
    columns = w.k_stored if w.groups == 1 else w.group_k
    epilogue = te.compute((w.groups, gemm.m, columns), finishing, name=EPILOGUE)

    def out(*index: Expr) -> Expr:
        at = gemm_index(w, *index)
        return epilogue(*at) if w.groups > 1 else epilogue(0, *at)

    # Groups have an axis of their own until `in_window` removes it. With a division instead, TVM
    # would not see which part of Conv an output tile reads.
    split = (*w.out_shape[:-1], w.groups, w.group_k)
    y = te.compute(w.out_shape if w.groups == 1 else split, out, name=OUT)
    return function(w, operands, y)


def direct_weight_shape(w: ConvWorkload) -> tuple[int, ...]:
    """Returns (R, S, C/groups, K), K rounded up to the output's block of channels."""
    return (w.r, w.s, w.group_c, w.k_stored)


def direct(w: ConvWorkload) -> tirx.PrimFunc:
    """Returns the convolution by its definition, as a function of its operands.

    The weight has `direct_weight_shape`. Accumulates in fp32, or integers in int32.
    """
    k_out = w.k_stored
    operands = placeholders(Signature.of(w, direct_weight_shape(w)))
    multiplied, accumulator = w.precision.operands[0], w.precision.accumulator
    wide = accumulator if dtypes.get(accumulator).integer else FP32.name
    r, s = te.reduce_axis((0, w.r), "r"), te.reduce_axis((0, w.s), "s")
    c = te.reduce_axis((0, w.group_c), "c")

    def conv(*index: Expr) -> Expr:
        n, p, q, k = w.out_layout.element(*index)
        channel = k // w.group_k * w.group_c + c
        inside = [k < w.k] * (k_out > w.k) + [channel < w.c] * (k_out > w.k)
        batches = round_up(w.n, w.out_layout.n)
        value = _input(w, operands, n, p, q, r, s, channel, inside, batches)
        weight = operands[WEIGHT][r, s, c, k].astype(wide)
        return te.sum(value.astype(multiplied).astype(wide) * weight, [r, s, c])

    sums = te.compute(w.out_shape, conv, name=CONV)

    def out(*index: Expr) -> Expr:
        return finish(w, operands, sums(*index), w.out_layout.element(*index))

    return function(w, operands, te.compute(w.out_shape, out, name=OUT))


def _gathered(
    w: ConvWorkload, gemm: Gemm, operands: Placeholders, g: Expr, o: Expr, m: Expr, i: Expr
) -> Expr:
    """Returns the input of row m of group g at (o, i), or zero outside of the input."""
    r, s, c = gemm.reduction.tap(w, o, i)
    n, p, q = pixel(w, m)
    readable = gemm.reduction.inner
    if w.in_layout.packed and w.groups == 1 and not gemm.reduction.by_rows:
        readable = round_up(w.c, w.in_layout.c)  # whole blocks: the weight is zero past C
    inside = [i < readable] if gemm.i_pad > readable else []
    batches = ceil_div(gemm.m_pad, w.p * w.q)
    return _input(w, operands, n, p, q, r, s, g * w.group_c + c, inside, batches)


def _input(
    w: ConvWorkload,
    operands: Placeholders,
    n: Expr,
    p: Expr,
    q: Expr,
    r: Expr,
    s: Expr,
    c: Expr,
    inside: list[Expr],
    batches: int,
) -> Expr:
    """Returns the element of x that output pixel (n, p, q) multiplies with tap (r, s, c), times its
    gate if there is one.

    Zero in the padding, and where a condition of `inside` fails. `batches` is one past the largest
    n. A packed input can be read up to whole blocks of batches.
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
    value = operands[X](*w.in_layout.index(n, h, v, c))
    if w.gate:
        # The product of two 16-bit floats is exact in fp32, so it is rounded once.
        gated = value.astype(FP32.name) * operands[GATE](n, 0, 0, c).astype(FP32.name)
        value = gated.astype(w.precision.x)
    return _where(conditions, value)


def _rows_read(outs: int, taps: int, stride: int, dilation: int, before: int) -> int:
    """Returns one past the last input row (or column) that any output reads."""
    return (outs - 1) * stride + (taps - 1) * dilation - before + 1
