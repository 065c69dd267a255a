"""Convolutions to test with: those in `WORKLOADS`, and those that hypothesis draws."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from schedules.conv.activations import FORMULAS, Activation
from schedules.conv.precision import (
    RESIDUAL_SCALE,
    RESULT_SCALE,
    RESULT_ZERO,
    SCALE,
    SCALES,
    Precision,
)
from schedules.conv.workload import (
    NHWC,
    PACKED,
    ConvWorkload,
    Epilogue,
    Layout,
    Window,
    round_up,
)

SAME = (1, 1, 1, 1)
FP32_OUT = Precision(result="float32")
FP16_SUMS = Precision(accumulator="float16")
PRECISIONS = st.builds(
    Precision,
    accumulator=st.sampled_from(("float32", "float32", "float16")),
    result=st.sampled_from(("float16", "float32")),
)
RELU = Activation("relu")
ALL = Epilogue(bias=True, residual=True, activation=RELU)
ALL_PACKED = replace(ALL, residual_layout=PACKED)

PARAMETERS = {
    "clip": (-1.0, 1.5),
    "leaky_relu": (0.1,),
    "hard_sigmoid": (0.2, 0.5),
}

#: name: workload. Small, and each of them odd in a way of its own.
WORKLOADS = {
    "not square": ConvWorkload(2, 15, 13, 32, 48, 3, 3, padding=SAME, epilogue=ALL),
    "stride": ConvWorkload(1, 14, 15, 16, 32, 3, 3, (2, 2), SAME),
    "strides differ": ConvWorkload(1, 11, 17, 16, 24, 3, 5, (3, 1), epilogue=Epilogue(True)),
    "asymmetric pads": ConvWorkload(2, 9, 8, 16, 16, 3, 2, padding=(0, 1, 2, 3), epilogue=ALL),
    "dilation": ConvWorkload(1, 13, 12, 24, 16, 3, 3, padding=(2, 3, 2, 3), dilation=(2, 3)),
    "1x1": ConvWorkload(1, 7, 9, 64, 40, 1, 1, epilogue=ALL),
    "gated": ConvWorkload(3, 5, 7, 40, 24, 1, 1, epilogue=ALL, gate=True),
    "gated, odd": ConvWorkload(2, 9, 8, 20, 10, 3, 2, (2, 1), SAME, gate=True),
    "1x1 with stride": ConvWorkload(2, 8, 9, 32, 16, 1, 1, (2, 2)),
    "filter as large as the image": ConvWorkload(1, 7, 5, 24, 16, 7, 5),
    "stem": ConvWorkload(1, 23, 21, 3, 32, 7, 7, (2, 2), (3, 3, 3, 3), epilogue=Epilogue(True)),
    "20 to 10 channels": ConvWorkload(3, 9, 7, 20, 10, 3, 3, padding=SAME, epilogue=ALL),
    "to one channel": ConvWorkload(1, 9, 10, 16, 1, 3, 3, padding=SAME, epilogue=ALL),
    "from one channel": ConvWorkload(2, 9, 10, 1, 16, 5, 3, padding=(2, 1, 2, 1)),
    "one pixel": ConvWorkload(1, 1, 1, 48, 20, 1, 1, epilogue=Epilogue(True)),
    "clip": ConvWorkload(
        1, 8, 8, 16, 16, 3, 3, epilogue=Epilogue(True, activation=Activation("clip", (-0.5, 0.7)))
    ),
    "scaled and shifted activation": ConvWorkload(
        1, 8, 8, 16, 16, 3, 3,
        epilogue=Epilogue(True, activation=Activation("hard_swish", (), 0.5, -0.25)),
    ),
    "fp32 out": ConvWorkload(
        1, 8, 9, 24, 20, 3, 3, padding=SAME, epilogue=Epilogue(True), precision=FP32_OUT
    ),
    "batch 5, packed": ConvWorkload(
        5, 9, 7, 48, 40, 3, 3, padding=SAME, in_layout=PACKED, out_layout=PACKED,
        epilogue=ALL_PACKED,
    ),
    "batch 17, to packed": ConvWorkload(
        17, 5, 6, 16, 24, 3, 3, padding=SAME, out_layout=PACKED, epilogue=Epilogue(residual=True)
    ),
    "batch 17, from packed": ConvWorkload(
        17, 5, 6, 20, 12, 3, 3, (2, 1), in_layout=PACKED, epilogue=ALL_PACKED
    ),
    "stem, packed": ConvWorkload(
        4, 12, 11, 3, 16, 7, 7, (2, 2), (3, 3, 3, 3), in_layout=PACKED, out_layout=PACKED
    ),
    "another packing": ConvWorkload(
        5, 6, 5, 20, 24, 3, 3, padding=SAME, in_layout=Layout(2, 4), out_layout=Layout(4, 8),
        epilogue=ALL,
    ),
    "groups": ConvWorkload(2, 9, 8, 24, 36, 3, 3, padding=SAME, groups=3, epilogue=ALL),
    "groups, packed": ConvWorkload(
        3, 6, 7, 24, 40, 3, 3, padding=SAME, groups=2, in_layout=PACKED, out_layout=PACKED,
        epilogue=ALL,
    ),
    "groups that cut tiles": ConvWorkload(
        2, 7, 7, 40, 136, 1, 1, groups=2, epilogue=ALL, window=Window(7, 7, 144, channel=8)
    ),
    "groups of 8": ConvWorkload(1, 9, 8, 32, 48, 3, 3, (2, 1), SAME, groups=4, epilogue=ALL),
    "groups, fp32 out": ConvWorkload(
        2, 7, 9, 40, 20, 1, 1, groups=2, epilogue=Epilogue(True), precision=FP32_OUT
    ),
    # A second tile of each group ends past its last channel.
    "groups past a tile": ConvWorkload(
        1, 5, 6, 16, 144, 3, 3, padding=SAME, groups=2, epilogue=ALL
    ),
    "groups past a tile, shuffled": ConvWorkload(
        2, 5, 6, 48, 210, 1, 1, groups=3, epilogue=ALL, window=Window(5, 6, 210, shuffle=3)
    ),
    "matrix product": ConvWorkload(5, 1, 1, 70, 100, 1, 1, epilogue=Epilogue(True)),
    "cropped": ConvWorkload(2, 12, 11, 16, 24, 3, 3, padding=(-1, 1, -2, -3), epilogue=ALL),
    "branch of a concat": ConvWorkload(
        2, 9, 8, 24, 40, 3, 3, padding=SAME, epilogue=ALL, window=Window(9, 8, 96, channel=24)
    ),
    "odd branch of a concat": ConvWorkload(
        1, 9, 8, 24, 21, 1, 1, epilogue=Epilogue(True), window=Window(9, 8, 51, channel=30)
    ),
    "stride phase": ConvWorkload(
        2, 6, 7, 16, 24, 2, 1, padding=(1, 0, 0, 0), epilogue=ALL,
        window=Window(12, 21, 24, 1, 2, 0, 2, 3),
    ),
    "shuffled": ConvWorkload(
        1, 9, 8, 32, 48, 1, 1, groups=4, epilogue=ALL, window=Window(9, 8, 48, shuffle=4)
    ),
    "concat, then shuffled": ConvWorkload(
        1, 9, 8, 32, 24, 1, 1, epilogue=ALL, window=Window(9, 8, 48, channel=24, shuffle=2)
    ),
    "residual last": ConvWorkload(
        1, 9, 8, 32, 24, 3, 3, padding=SAME,
        epilogue=Epilogue(True, True, NHWC, Activation("silu"), residual_last=True),
    ),
    "prelu": ConvWorkload(
        3, 9, 8, 20, 24, 3, 3, out_layout=PACKED, epilogue=Epilogue(activation=Activation("prelu"))
    ),
    "depthwise": ConvWorkload(1, 11, 9, 24, 24, 3, 3, (2, 2), SAME, groups=24, epilogue=ALL),
    "depthwise, packed": ConvWorkload(
        3, 6, 7, 20, 20, 3, 3, padding=SAME, groups=20, out_layout=PACKED, epilogue=Epilogue(True)
    ),
    # Nothing divides: 36 channels into vectors of 8, 11 columns and 9 rows into tiles.
    "depthwise 5x5 with stride": ConvWorkload(
        2, 17, 20, 36, 36, 5, 5, (2, 2), (1, 2, 3, 4), groups=36,
        epilogue=Epilogue(True, True, activation=Activation("clip", (-0.5, 0.7))),
    ),
    "depthwise, dilation": ConvWorkload(
        1, 14, 13, 16, 16, 3, 3, padding=(2, 0, 1, 4), dilation=(1, 2), groups=16,
        epilogue=Epilogue(residual=True),
    ),
    "depthwise, fp32 out": ConvWorkload(
        1, 7, 7, 40, 40, 3, 3, padding=SAME, groups=40,
        epilogue=Epilogue(True), precision=FP32_OUT,
    ),
    "depthwise, 7 channels": ConvWorkload(3, 6, 5, 7, 7, 2, 3, (1, 2), groups=7, epilogue=ALL),
    "depthwise, large filter": ConvWorkload(
        1, 4, 12, 32, 32, 1, 9, padding=(0, 4, 0, 4), groups=32, epilogue=ALL
    ),
    "depthwise branch of a concat": ConvWorkload(
        1, 9, 8, 24, 24, 3, 3, padding=SAME, groups=24, window=Window(9, 8, 60, channel=12),
        epilogue=Epilogue(True, True, activation=Activation("prelu"), residual_last=True),
    ),
    "depthwise stride phase": ConvWorkload(
        2, 6, 7, 16, 16, 2, 1, padding=(1, 0, 0, 0), groups=16, epilogue=ALL,
        window=Window(12, 21, 16, 1, 2, 0, 2, 3, 2),
    ),
    "depthwise, multiplier 2": ConvWorkload(2, 9, 8, 12, 24, 3, 3, padding=SAME, groups=12),
}  # fmt: skip


def quantised(
    w: ConvWorkload, x: str, result: str, *scales: str, residual: str = ""
) -> ConvWorkload:
    """The workload with 8-bit operands, and those scales that apply to it."""
    given = tuple(one for one in scales if one != RESIDUAL_SCALE or w.epilogue.residual)
    precision = Precision(x, (x, "int8"), "int32", result, scales=given, residual=residual)
    return replace(w, precision=precision)


def _int8_workloads() -> dict[str, ConvWorkload]:
    """Every form of result and scales, and of layout, in some of `WORKLOADS`."""
    sums = {
        f"{name}, sums": quantised(replace(WORKLOADS[name], epilogue=Epilogue()), x, "int32")
        for name, x in (("not square", "int8"), ("stride", "uint8"), ("groups", "int8"))
    }
    forms = {
        "int8": ("int8", "int8", (SCALE, RESIDUAL_SCALE)),
        "uint8": ("uint8", "uint8", SCALES),
        "zero point": ("int8", "int8", (SCALE, RESIDUAL_SCALE, RESULT_ZERO)),
        "fp16 out": ("uint8", "float16", (SCALE, RESIDUAL_SCALE)),
    }
    named = [(name, form) for name in ("not square", "depthwise") for form in forms]
    named += [("1x1", "uint8"), ("1x1", "zero point")]
    named += [("residual last", "int8"), ("residual last", "fp16 out")]
    once = ("stem", "20 to 10 channels", "batch 5, packed", "groups", "stride phase", "prelu")
    named += [(name, "uint8") for name in once]
    found = {
        f"{name}, {form}": quantised(WORKLOADS[name], *forms[form][:2], *forms[form][2])
        for name, form in named
    }
    w = WORKLOADS["1x1"]
    found["fp16 residual"] = quantised(w, "int8", "int8", SCALE, RESULT_SCALE, residual="float16")
    found["fp16 to int8"] = replace(w, precision=Precision(result="int8", scales=(RESULT_SCALE,)))
    return sums | found


#: The same in integers.
INT8_WORKLOADS = _int8_workloads()

BIAS = Epilogue(True)
RELU6 = Epilogue(True, activation=Activation("clip", (0.0, 6.0)))


def pair(
    size: tuple[int, int, int, int],
    k: int,
    r: int,
    s: int,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = SAME,
    first: Epilogue = RELU6,
    epilogue: Epilogue = BIAS,
) -> ConvWorkload:
    """A depthwise convolution of an (N, H, W, C) image and the 1x1 to K channels after it."""
    n, h, w, c = size
    one = ConvWorkload(n, h, w, c, c, r, s, stride, padding, groups=c, epilogue=first)
    return ConvWorkload(n, one.p, one.q, c, k, 1, 1, epilogue=epilogue, prologue=one)


#: The same of pairs of convolutions, which one family alone computes, from sm_80 on.
PAIRS = {
    "pair": pair((1, 9, 11, 32), 16, 3, 3, epilogue=Epilogue(True, True)),
    "pair, stride 2": pair((2, 9, 13, 24), 24, 3, 3, (2, 2)),
    "pair, 72 channels": pair((1, 7, 7, 72), 64, 3, 3, epilogue=ALL),
    "pair, 5x5": pair((1, 10, 9, 40), 48, 5, 5, (2, 1), (2, 1, 2, 3), Epilogue()),
    "pair, to 320": pair((1, 6, 5, 16), 320, 3, 3, epilogue=Epilogue()),
    "pair, 2x3, one row": pair(
        (3, 2, 17, 8), 40, 2, 3, padding=(0, 2, 0, 0),
        first=Epilogue(activation=Activation("hard_swish")),
        epilogue=Epilogue(False, True, activation=Activation("silu"), residual_last=True),
    ),
    "pair, cropped": pair((1, 12, 11, 16), 8, 3, 3, padding=(-1, 1, -2, -3)),
}  # fmt: skip


def quantised_pair(
    w: ConvWorkload,
    x: str,
    between: str,
    result: str,
    scales: tuple[str, ...] = (SCALE, RESIDUAL_SCALE),
    first: tuple[str, ...] = (SCALE,),
    residual: str = "",
) -> ConvWorkload:
    """A pair in 8-bit integers. between: dtype of the first one's result. first: its scales."""
    one, then = w.apart
    prologue = quantised(one, x, between, *first)
    second = quantised(then, between, result, *scales, residual=residual)
    return replace(second, prologue=prologue)


HARD_SWISH = Epilogue(True, activation=Activation("hard_swish"))
#: The same in integers: every form of result, scales and residual.
INT8_PAIRS = {
    "int8": quantised_pair(pair((1, 9, 11, 32), 16, 3, 3), "int8", "int8", "int8"),
    "uint8 between, residual": quantised_pair(
        pair((1, 9, 11, 48), 32, 3, 3, epilogue=Epilogue(True, True)), "int8", "uint8", "int8",
        residual="int8",
    ),
    "zero points, stride 2, to 24": quantised_pair(
        pair((2, 9, 13, 144), 24, 3, 3, (2, 2), epilogue=ALL), "uint8", "uint8", "uint8",
        (SCALE, RESIDUAL_SCALE, RESULT_ZERO), (SCALE, RESULT_ZERO),
    ),
    "every scale, 5x5": quantised_pair(
        pair((1, 10, 9, 64), 48, 5, 5, (2, 1), (2, 1, 2, 3), HARD_SWISH,
             Epilogue(True, True, activation=Activation("silu"), residual_last=True)),
        "uint8", "int8", "uint8", SCALES, (SCALE, RESULT_SCALE, RESULT_ZERO),
    ),
    "fp16 out and residual": quantised_pair(
        pair((1, 7, 7, 80), 64, 3, 3, epilogue=ALL), "int8", "uint8", "float16", (SCALE,),
        residual="float16",
    ),
    "fp32 out, cropped": quantised_pair(
        pair((1, 12, 11, 16), 40, 3, 3, padding=(-1, 1, -2, -3)), "uint8", "int8", "float32"
    ),
    "to 8, 2x3, one row": quantised_pair(
        pair((3, 2, 17, 32), 8, 2, 3, padding=(0, 2, 0, 0), first=Epilogue(),
             epilogue=Epilogue(False, True)),
        "int8", "int8", "int8", residual="uint8",
    ),
    "to 320": quantised_pair(
        pair((1, 6, 5, 32), 320, 3, 3, epilogue=Epilogue()), "uint8", "uint8", "int8"
    ),
}  # fmt: skip

#: One activation of every kind.
ACTIVATIONS = st.sampled_from([Activation(kind, PARAMETERS.get(kind, ())) for kind in FORMULAS])
LAYOUTS = st.sampled_from((NHWC, PACKED, Layout(4, 8), Layout(1, 16)))


@st.composite
def windows(draw: st.DrawFn, w: ConvWorkload) -> Window:
    """A part of a larger tensor that the workload's output fits: at an offset and with steps in
    rows, columns and channels, perhaps shuffled."""
    row, column, channel = (draw(st.integers(0, 3)) for _ in range(3))
    channel *= draw(st.sampled_from((1, 4, 8)))
    row_step, column_step = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shuffle = draw(st.sampled_from((1, 1, 2, 3, 4)))
    more = [draw(st.integers(0, 2)) for _ in range(3)]
    return Window(
        row + (w.p - 1) * row_step + 1 + more[0],
        column + (w.q - 1) * column_step + 1 + more[1],
        round_up(channel + w.k + more[2] * 4, shuffle),
        row, column, channel, row_step, column_step, shuffle,
    )  # fmt: skip


@st.composite
def workloads(draw: st.DrawFn, largest: int = 9, channels: int = 20) -> ConvWorkload:
    """Any convolution at all, of images up to about `largest` and groups of up to `channels`."""
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    c, k = (groups * draw(st.integers(1, channels)) for _ in range(2))
    if draw(st.integers(0, 5)) == 0:  # depthwise
        groups, k = c, c * draw(st.integers(1, 2))
    epilogue = Epilogue(
        draw(st.booleans()),
        draw(st.booleans()),
        draw(LAYOUTS),
        draw(ACTIVATIONS),
        draw(st.booleans()),
    )
    r, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(*[st.sampled_from((0, 0, 1, 2, 3, -1, -2))] * 4))
    # At least as large as the filter and what is cropped; not left to ConvWorkload's own check,
    # which is under test itself.
    h, w = (
        draw(st.integers(least, max(least, largest)))
        for least in (
            max(
                dilation[axis] * (taps - 1) + 1 - padding[axis] - padding[axis + 2],
                1 - min(padding[axis], 0) - min(padding[axis + 2], 0),
            )
            for axis, taps in enumerate((r, s))
        )
    )
    workload = ConvWorkload(
        n=draw(st.sampled_from((1, 1, 2, 3, 5, 17))),
        h=h,
        w=w,
        c=c,
        k=k,
        r=r,
        s=s,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=padding,
        dilation=dilation,
        groups=groups,
        in_layout=draw(LAYOUTS),
        precision=draw(PRECISIONS),
        epilogue=epilogue,
    )
    if draw(st.integers(0, 2)) == 0:
        return replace(workload, window=draw(windows(workload)))
    return replace(workload, out_layout=draw(LAYOUTS))
