"""The `ConvWorkload` of each kernel of a region."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from schedules.conv.precision import Precision
from schedules.conv.workload import NHWC, ConvWorkload, Epilogue, Layout, Window
from tvmconv.passes.plan import quantised
from tvmconv.passes.plan.concat_in_place import Place
from tvmconv.passes.plan.stride_phases import Phase, phases
from tvmconv.passes.regions.region import Region


def workloads(
    region: Region,
    place: Place,
    x: Layout,
    residual: Layout,
    out: Layout,
    precision: Precision,
) -> list[tuple[ConvWorkload, NDArray[Any]]]:
    """The workload of each kernel of a region, and its weight (K, C/groups, R, S).

    x, residual, out: layouts. Raises ``ValueError`` for a region that is no valid convolution.
    """
    epilogue = Epilogue(
        bias=region.adds_bias,
        residual=region.residual is not None,
        residual_layout=residual,
        activation=region.activation,
        residual_last=region.residual_last,
        pool=region.pool,
    )
    base, precision = precision, quantised.precision(region, precision)
    n, h, w, c = region.x_shape
    top, left, bottom, right = region.widths
    h, w = h + top + bottom, w + left + right
    padding = _padding(region)
    if region.transposed:
        return [
            (_phase(region, place, phase, epilogue, x, precision), phase.weight)
            for phase in phases(region)
        ]
    k, _, r, s = region.weight.shape
    prologue = None
    if region.prologue is not None:
        own = Place(region.prologue.output, 0, c)
        ((prologue, _),) = workloads(region.prologue, own, x, x, NHWC, replace(base, result=base.x))
        x = NHWC
    whole = place.channels == k and place.shuffle == 1
    window = None if whole else _window(region, place)
    workload = ConvWorkload(
        n, h, w, c, k, r, s, region.stride, padding, region.dilation, region.groups,
        x, out, epilogue=epilogue, precision=precision, window=window, prologue=prologue,
        gate=region.gate is not None,
    )  # fmt: skip
    return [(workload, region.weight)]


def _padding(region: Region) -> tuple[int, int, int, int]:
    """The padding that is left to the kernel."""
    (top, left, bottom, right), before = region.padding, region.widths
    return top - before[0], left - before[1], bottom - before[2], right - before[3]


def _window(region: Region, place: Place, phase: Phase | None = None) -> Window:
    at = (0, 0, place.channel)
    steps = (1, 1)
    if phase is not None:
        at = (phase.rows.first, phase.columns.first, place.channel)
        steps = (phase.rows.step, phase.columns.step)
    return Window(*region.pixels, place.channels, *at, *steps, place.shuffle)


def _phase(
    region: Region,
    place: Place,
    phase: Phase,
    epilogue: Epilogue,
    in_layout: Layout,
    precision: Precision,
) -> ConvWorkload:
    """The dense convolution of one phase of a transposed one."""
    n, h, w, c = region.x_shape
    k, _, r, s = phase.weight.shape
    after = [
        taps.count - size - taps.pad + taps.dilation * (count - 1)
        for taps, size, count in ((phase.rows, h, r), (phase.columns, w, s))
    ]
    return ConvWorkload(
        n, h, w, c, k, r, s,
        padding=(phase.rows.pad, phase.columns.pad, *after),
        dilation=(phase.rows.dilation, phase.columns.dilation),
        groups=region.groups,
        in_layout=in_layout,
        epilogue=epilogue,
        precision=precision,
        window=_window(region, place, phase),
    )  # fmt: skip
