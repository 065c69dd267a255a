"""Traces one WMMA of a convolution: its operands and its HMMA instructions.

Rows of the implicit GEMM are output pixels, columns are output channels. Tile (I, J) begins at row
16 I and column 16 J, in the group that J falls into. Its reduction is a sequence of WMMAs of 16
steps each, tap by tap of the filter; each accumulates onto the result of the previous one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import volta
from intrinsics.dtypes import FP16
from intrinsics.numerics.arithmetic import Numerics
from intrinsics.volta import fragments
from intrinsics.volta.fragments import LANES
from intrinsics.volta.fragments import TILE as SIDE
from intrinsics.volta.listing import trace
from schedules.conv.gemm import Gemm, pixel
from schedules.conv.workload import ConvWorkload
from schedules.families.simulated.family import TILE, HmmaSimFamily
from tvmconv.errors import TvmconvError
from tvmconv.reports.data.build import ConvReport
from tvmconv.runtime import simulator
from tvmconv.runtime.executable import Executable
from tvmconv.runtime.feeds import random_feeds

Array = NDArray[Any]
PROGRAM = simulator.PROGRAMS["float32"]
#: Return value that tells TVM's virtual machine to skip a call (`VMInstrumentReturnKind`).
SKIP = 1


@dataclass(frozen=True)
class Trace:
    """One WMMA: where it belongs, its operands and its listing. ``str()`` shows all of it."""

    #: Lines that describe the operands; empty for an example.
    title: tuple[str, ...]
    numerics: str
    #: A (16, 16) and B (16, 16) float16; C and D (16, 16) float32.
    a: Array
    b: Array
    c: Array
    d: Array
    listing: str

    @staticmethod
    def check(numerics: str, lane: int) -> Numerics:
        """Returns the arithmetic of that name.

        Raises `TvmconvError` for an unknown one, for that of a GPU with other instructions, and
        for a lane outside 0 to 31.
        """
        if lane not in range(LANES):
            raise TvmconvError(f"there is no lane {lane}", hint=f"lanes are 0 to {LANES - 1}")
        chosen = simulator.arithmetic(numerics)
        if chosen.arithmetic == "aligned" and chosen is not simulator.VOLTA:
            raise TvmconvError(
                f"there is no listing with {numerics} numerics",
                note="it is of Volta's instructions, and that chip has others",
                hint=f"use {simulator.VOLTA.name}, ieee or exact",
            )
        return chosen

    def to_json(self) -> dict[str, Any]:
        """The trace as JSON: operands as nested lists, the listing by line."""
        operands = {name: getattr(self, name).tolist() for name in "abcd"}
        return {
            "title": list(self.title),
            "numerics": self.numerics,
            **operands,
            "listing": self.listing.splitlines(),
        }

    def __str__(self) -> str:
        return "\n".join([*self.title, "", self.listing.rstrip()])


def trace_example(numerics: str = simulator.DEFAULT, lane: int = 0) -> Trace:
    """Traces a WMMA with operands that show their position, all exact in fp16.

    A[m, k] = m + k / 16, B[k, n] = k - n / 16, C = 0. Raises `TvmconvError` for unknown numerics or
    a bad lane.
    """
    row, column = np.indices((SIDE, SIDE))
    a, b = ((row + sign * column / 16).astype(FP16.numpy) for sign in (1, -1))
    title = ("example: A[m, k] = m + k/16, B[k, n] = k - n/16, C = 0",)
    return _trace(title, a, b, np.zeros((SIDE, SIDE), np.float32), numerics, lane)


def trace_layer(
    exe: Executable,
    feeds: Mapping[str, Any] | None,
    layer: str,
    tile: tuple[int, int],
    *,
    numerics: str = simulator.DEFAULT,
    lane: int = 0,
    wmma: int = 0,
) -> Trace:
    """Traces one WMMA of a convolution of a network, with its values for these feeds.

    exe: built for ``"hmma-sim"`` with the same numerics. feeds: as for `Executable.run`; None for
    `random_feeds`. layer: its name in the report. wmma: its index in the tile. A transposed
    convolution is traced in the first phase of its stride.

    Raises `TvmconvError` for an unknown layer, tile, WMMA, lane or numerics, and as `run` does.
    """
    chosen = Trace.check(numerics, lane)
    conv = _layer(exe, layer)
    w = ConvWorkload.from_json(conv.workloads[0])
    part = _Part.of(w, layer, tile, wmma)
    given = random_feeds(exe.inputs) if feeds is None else feeds
    x, packed = _operands(exe, given, conv)
    a, b = part.gathered(x), part.weights(packed)
    before = SIDE * wmma
    zeros = np.zeros((SIDE, SIDE), np.float32)
    c = simulator.matmul(a[:, :before], b[:before], zeros, chosen) if wmma else zeros
    steps = slice(before, before + SIDE)
    return _trace(part.title(layer, lane), a[:, steps], b[steps], c, numerics, lane)


def _trace(title: tuple[str, ...], a: Array, b: Array, c: Array, numerics: str, lane: int) -> Trace:
    fused = simulator.adder(Trace.check(numerics, lane))
    loaded = (
        volta.load(operand, np.ascontiguousarray(matrix).reshape(-1), SIDE, layout)
        for operand, matrix, layout in (
            (volta.A, a, PROGRAM.a_layout),
            (volta.B, b, PROGRAM.b_layout),
            (volta.ACCUMULATOR_F32, c, "row"),
        )
    )
    state = volta.State.of(PROGRAM, *loaded)
    after = volta.run(state, PROGRAM.instructions, fused).accumulator(PROGRAM)
    d = np.empty(SIDE * SIDE, np.float32)
    volta.store(volta.ACCUMULATOR_F32, after, d, SIDE)
    listing = trace(PROGRAM, state, fused, lane)
    return Trace(title, numerics, a, b, c, d.reshape(SIDE, SIDE), listing)


# ---------------------------------------------------------------- a part of a convolution


@dataclass(frozen=True)
class _Part:
    """One WMMA of a tile of the implicit GEMM."""

    w: ConvWorkload
    gemm: Gemm
    tile: tuple[int, int]
    wmma: int

    @classmethod
    def of(cls, w: ConvWorkload, layer: str, tile: tuple[int, int], wmma: int) -> _Part:
        gemm = Gemm.of(w, TILE)
        counts = gemm.m_pad // SIDE, gemm.groups * gemm.k_pad // SIDE
        if any(at not in range(count) for at, count in zip(tile, counts, strict=True)):
            raise TvmconvError(
                f"layer {layer!r} has no tile {tile[0]},{tile[1]}",
                note=f"it is a product of {gemm.m} x {w.k} x {gemm.reduction.outer * gemm.i_pad}",
                hint=f"I is 0 to {counts[0] - 1}, J 0 to {counts[1] - 1}",
            )
        steps = gemm.reduction.outer * gemm.i_pad // SIDE
        if wmma not in range(steps):
            raise TvmconvError(
                f"a tile of layer {layer!r} has no WMMA {wmma}", hint=f"they are 0 to {steps - 1}"
            )
        return cls(w, gemm, tile, wmma)

    @property
    def group(self) -> int:
        return self.tile[1] * SIDE // self.gemm.k_pad

    @property
    def column(self) -> int:
        """First column of the tile within its group."""
        return self.tile[1] * SIDE % self.gemm.k_pad

    @property
    def rows(self) -> Array:
        return self.tile[0] * SIDE + np.arange(SIDE)

    def taps(self) -> tuple[Array, Array]:
        """Indices (o, i) of every step of the reduction."""
        k = np.arange(self.gemm.reduction.outer * self.gemm.i_pad)
        return k // self.gemm.i_pad, k % self.gemm.i_pad

    def gathered(self, x: Array) -> Array:
        """A, (16, k) float16: elements of x for the tile's pixels, zero in the padding."""
        w, reduction = self.w, self.gemm.reduction
        o, i = self.taps()
        r, s, c = reduction.tap(w, o, i)
        n, p, q = (one[:, None] for one in pixel(w, self.rows))
        h = p * w.stride[0] + r * w.dilation[0] - w.padding[0]
        v = q * w.stride[1] + s * w.dilation[1] - w.padding[1]
        inside = (n < w.n) & (h >= 0) & (h < w.h) & (v >= 0) & (v < w.w) & (i < reduction.inner)
        index = w.in_layout.index(n, h, v, self.group * w.group_c + c)
        at = tuple(np.where(inside, one, 0) for one in index)
        return np.where(inside, x[at], 0).astype(FP16.numpy)

    def weights(self, packed: Array) -> Array:
        """B, (k, 16) float16, from weights packed by `gemm.pack_weight`."""
        columns = packed[self.group, :, :, self.column // SIDE]
        return np.ascontiguousarray(columns.reshape(-1, SIDE))

    def title(self, layer: str, lane: int) -> tuple[str, ...]:
        w, gemm = self.w, self.gemm
        first, last = (self._pixel(row) for row in (self.rows[0], self.rows[-1]))
        channel = self.group * w.group_k + self.column
        row = int(fragments.held(volta.A, PROGRAM.a_layout)[0][lane % LANES, 0])
        columns = fragments.held(volta.B, PROGRAM.b_layout)[1][lane % LANES, :4] + channel
        steps = gemm.reduction.outer * gemm.i_pad // SIDE
        return (
            f"layer {layer}: {w}; a product of {gemm.m} x {w.k} x {steps * SIDE}",
            f"tile {self.tile[0]},{self.tile[1]}: output pixels {first} to {last}; "
            f"channels {channel} to {channel + SIDE - 1}",
            f"WMMA {self.wmma} of {steps}: {self._span()}",
            f"lane {lane}: row {row} of A, output pixel {self._pixel(self.rows[row])}; "
            f"of B channels {columns[0]} to {columns[-1]}",
        )

    def _pixel(self, m: Any) -> str:
        n, p, q = (int(one) for one in pixel(self.w, m))
        return f"({n}, {p}, {q})" if m < self.gemm.m and n < self.w.n else "(padding)"

    def _span(self) -> str:
        """Describes the part of the filter that the WMMA multiplies."""
        o, i = (one[self.wmma * SIDE : (self.wmma + 1) * SIDE] for one in self.taps())
        ends = [self.gemm.reduction.tap(self.w, int(o[at]), int(i[at])) for at in (0, -1)]
        offset = self.group * self.w.group_c
        texts = [f"tap ({r}, {s}), input channel {offset + c}" for r, s, c in ends]
        return " to ".join(texts)


# ---------------------------------------------------------------- its operands


def _layer(exe: Executable, name: str) -> ConvReport:
    found = {one.name: one for one in exe.report.convs if one.family == HmmaSimFamily.name}
    if name not in found:
        raise TvmconvError(
            f"there is no layer {name!r} on tensor cores", hint=f"one of {', '.join(found)}"
        )
    return found[name]


def _operands(exe: Executable, feeds: Mapping[str, Any], conv: ConvReport) -> tuple[Array, Array]:
    """Input and packed weights of the layer's first kernel, recorded in a run."""
    waiting: dict[str, deque[ConvReport]] = defaultdict(deque)
    for layer in exe.report.convs:
        for kernel in layer.kernels:
            waiting[kernel].append(layer)
    kernels = frozenset(waiting)
    found: list[tuple[Array, Array]] = []

    def heard(_: Any, name: str, before: bool, __: Any, *arguments: Any) -> int:
        if not before or name not in kernels:
            return 0
        # Equal layers share a kernel and run in the order of the report.
        if not found and waiting[name].popleft() is conv:
            found.append((arguments[0].numpy(), arguments[1].numpy()))
        return SKIP if found else 0

    exe.traced(heard)(exe.transfer_in(feeds))
    return found[0]
