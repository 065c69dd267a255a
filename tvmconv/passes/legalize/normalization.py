"""Norms of rows and of groups as loops, the variance being the mean square around the mean.

    mean = sum(x) / n;  variance = sum((x - mean)^2) / n
    y = (x - mean) / sqrt(variance + epsilon) * gamma + beta        all of it in fp32

TVM's are of one pass, mean(x^2) - mean(x)^2, which loses all digits where the mean is large beside
the deviation. A GPU keeps the elements of a row in registers between the passes (`gpu_rows`).

A norm of groups of channels, channels innermost, adds in three steps, as a block of threads does
(`gpu_groups`): `Groups.rows` threads of each channel have every so many pixels,

    part[n, t, c] = sum over s of x[n, s * rows + t, c]
    runs[n, g, q] = sum over every so many of part[n, t, c], with c in group g
    total[n, g]   = sum over q of runs[n, g, q]

and so are the squares. Channels and groups are numbered within the part that a block has. Where
channels are outermost a group is a row (`norm_rows`).

https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax, te, tirx


def _layer_norm(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    rank = call.args[0].ty.ndim
    axes = sorted(int(axis) % rank for axis in call.attrs.axes)
    epsilon = float(call.attrs.epsilon)
    x, gamma, beta = call.args

    def compute(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
        rows = [size for i, size in enumerate(x.shape) if i not in axes]
        count = math.prod(int(x.shape[i]) for i in axes)
        inverse = tirx.const(1 / count, "float32")

        def reduced(name: str, term: Callable[..., Any]) -> te.Tensor:
            taps = {i: te.reduce_axis((0, x.shape[i]), f"k{i}") for i in axes}

            def element(*row: Any) -> Any:
                place = iter(row)
                at = [taps[i].var if i in taps else next(place) for i in range(rank)]
                return te.sum(term(at, row), axis=list(taps.values()))

            return te.compute(rows, element, name=name)

        def wide(at: Sequence[Any]) -> Any:
            return x(*at).astype("float32")

        total = reduced("total", lambda at, row: wide(at))

        def centred(at: Sequence[Any], row: Sequence[Any]) -> Any:
            return wide(at) - total(*row) * inverse

        squares = reduced("squares", lambda at, row: centred(at, row) * centred(at, row))

        def element(*at: Any) -> Any:
            row = [one for i, one in enumerate(at) if i not in axes]
            inside = [at[i] for i in axes]
            deviation = te.rsqrt(squares(*row) * inverse + tirx.const(epsilon, "float32"))
            scaled = centred(at, row) * deviation * gamma(*inside).astype("float32")
            return (scaled + beta(*inside).astype("float32")).astype(x.dtype)

        return te.compute(x.shape, element, name="layer_norm")

    return builder.call_te(compute, x, gamma, beta, primfunc_name_hint="layer_norm")


#: Bytes of a run of channels that a block of threads reads at least: a sector of L2; of fp16, as
#: what convolutions write is.
RUN_BYTES, ELEMENT_BYTES = 32, 2
#: The most adjacent channels of a thread, and threads of a block that are aimed at.
MOST_ADJACENT, THREADS = 8, 512


@dataclass(frozen=True)
class Groups:
    """The part of a block of threads in norms of groups: whole groups of one image.

    slab: channels of a block. adjacent: channels of a thread. rows: threads of each such run, which
    have every so many pixels; they divide the pixels.
    """

    slab: int
    adjacent: int
    rows: int

    @classmethod
    def of(cls, pixels: int, channels: int, groups: int) -> Groups:
        """Returns it for so many pixels of an image, and channels in so many groups."""
        each = channels // groups
        slab = next(
            (
                each * count
                for count in range(1, groups + 1)
                if groups % count == 0 and each * count * ELEMENT_BYTES >= RUN_BYTES
            ),
            channels,
        )
        adjacent = math.gcd(slab, MOST_ADJACENT)
        most = max(1, THREADS * adjacent // slab)
        # Fewer than the pixels, so that each has a sum of its own.
        most = min(most, max(1, pixels - 1))
        rows = max(one for one in range(1, most + 1) if pixels % one == 0)
        return cls(slab, adjacent, rows)


def _group_norm(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, gamma, beta = call.args
    assert int(call.attrs.channel_axis) % x.ty.ndim == x.ty.ndim - 1, "else `norm_rows`"
    groups, epsilon = int(call.attrs.num_groups), float(call.attrs.epsilon)
    given = (x, gamma, beta, groups, epsilon)
    return builder.call_te(_channels_last, *given, primfunc_name_hint="group_norm")


def _channels_last(
    x: te.Tensor, gamma: te.Tensor, beta: te.Tensor, groups: int, epsilon: float
) -> te.Tensor:
    """A norm of groups of (N, ..., C)."""
    n, *image, c = (int(size) for size in x.shape)
    pixels, each = math.prod(image), c // groups
    plan = Groups.of(pixels, c, groups)
    inverse = tirx.const(1 / (pixels * each), "float32")

    def wide(*at: Any) -> Any:
        return x(*at).astype("float32")

    def place(pixel: Any) -> list[Any]:
        found: list[Any] = []
        for size in reversed(image):
            found.insert(0, pixel % size if len(found) + 1 < len(image) else pixel)
            pixel = pixel // size
        return found

    def summed(name: str, term: Callable[..., Any]) -> te.Tensor:
        s = te.reduce_axis((0, pixels // plan.rows), "s")
        part = te.compute(
            (n, c // plan.slab, plan.rows, plan.slab),
            lambda b, at, t, k: te.sum(
                term(b, at * plan.slab + k, (b, *place(s * plan.rows + t), at * plan.slab + k)),
                axis=s,
            ),
            name=f"{name}_part",
        )
        terms = plan.rows * each
        runs = math.isqrt(terms - 1) + 1
        r = te.reduce_axis((0, -(-terms // runs)), "r")

        def run(b: Any, at: Any, g: Any, q: Any) -> Any:
            i = r * runs + q
            value = part[b, at, i // each, g * each + i % each]
            if terms % runs:
                value = tirx.if_then_else(i < terms, value, tirx.const(0, "float32"))
            return te.sum(value, axis=r)

        inside = (n, c // plan.slab, plan.slab // each)
        run_sums = te.compute((*inside, runs), run, name=f"{name}_runs")
        q = te.reduce_axis((0, runs), "q")
        return te.compute(inside, lambda b, at, g: te.sum(run_sums[b, at, g, q], axis=q), name=name)

    def of_group(sums: te.Tensor, b: Any, k: Any) -> Any:
        return sums[b, k // plan.slab, k % plan.slab // each]

    total = summed("total", lambda b, k, at: wide(*at))

    def centred(b: Any, k: Any, at: Sequence[Any]) -> Any:
        return wide(*at) - of_group(total, b, k) * inverse

    squares = summed("squares", lambda b, k, at: centred(b, k, at) * centred(b, k, at))

    def element(*at: Any) -> Any:
        b, k = at[0], at[-1]
        variance = of_group(squares, b, k) * inverse
        deviation = te.rsqrt(variance + tirx.const(epsilon, "float32"))
        scaled = centred(b, k, at) * deviation * gamma[k].astype("float32")
        return (scaled + beta[k].astype("float32")).astype(x.dtype)

    return te.compute(x.shape, element, name="group_norm")


#: By operator.
NORMS: Mapping[str, Callable[[relax.BlockBuilder, relax.Call], relax.Expr]] = {
    "relax.nn.group_norm": _group_norm,
    "relax.nn.layer_norm": _layer_norm,
}
