"""Decide, for every region, where it writes, in which layout, and by which schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from intrinsics import dtypes
from schedules.choose import Choice
from schedules.conv.precision import Precision
from schedules.conv.signature import BIAS, SLOPE, WEIGHT, Signature
from schedules.conv.workload import NHWC, ConvWorkload
from schedules.family import Given, with_prologue
from schedules.machine.hardware import Hardware
from tvmconv.errors import ModelError
from tvmconv.passes.graph import Dataflow
from tvmconv.passes.plan.absorb_gate import absorb_gates
from tvmconv.passes.plan.absorb_pool import absorb_pools
from tvmconv.passes.plan.balance_ranges import balance_ranges
from tvmconv.passes.plan.channel_shuffle import shuffled
from tvmconv.passes.plan.choose_operands import choose_operands
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.concat_in_place import Place, concat_places
from tvmconv.passes.plan.keep_ranges import keep_ranges
from tvmconv.passes.plan.layouts import PLAIN, Chosen, choose_layouts
from tvmconv.passes.plan.pair_convs import pair_convs
from tvmconv.passes.plan.quantised import constants
from tvmconv.passes.plan.readers import written
from tvmconv.passes.plan.scale_weights import scale_weights
from tvmconv.passes.plan.workloads import workloads
from tvmconv.passes.regions.region import Region


@dataclass(frozen=True)
class PlannedKernel:
    """One kernel of a region: how it computes, and its weight (K, C/groups, R, S)."""

    region: Region
    choice: Choice
    weight: NDArray[Any]

    @property
    def signature(self) -> Signature:
        """The kernel's operands in order."""
        return self.choice.family.signature(self.choice.workload, self.choice.config)

    @property
    def given(self) -> Given:
        """The constant tensors that the family packs."""
        given = _given(self.region, self.weight)
        first = self.region.prologue
        return given if first is None else with_prologue(given, _given(first, first.weight))

    @property
    def key(self) -> tuple[ConvWorkload, Any, Hardware]:
        """Arguments of `Family.schedule`; kernels with equal keys are one kernel."""
        return self.choice.workload, self.choice.config, self.choice.hardware


def _given(region: Region, weight: NDArray[Any]) -> Given:
    """The constant tensors of one convolution, by name."""
    found = {WEIGHT: weight, BIAS: region.bias, SLOPE: region.slope}
    found |= constants(region)
    return {name: array for name, array in found.items() if array is not None}


@dataclass(frozen=True)
class PlannedConv:
    """A convolution of the model with all that was decided about it."""

    name: str
    region: Region
    place: Place
    #: More than one for a transposed convolution.
    kernels: tuple[PlannedKernel, ...]
    #: The output's layout, and why.
    layout: Chosen

    @property
    def shape(self) -> str:
        """Readable, as of a `ConvWorkload`."""
        if not self.region.transposed:
            return str(self.kernels[0].choice.workload)
        region = self.region
        n, h, w, c = region.x_shape
        r, s = region.weight.shape[2:]
        p, q = region.pixels
        return f"{n}x{h}x{w}x{c} -> {p}x{q}x{region.k}, {r}x{s} transposed, stride {region.stride}"


def kernel_names(planned: Iterable[PlannedConv]) -> dict[tuple[ConvWorkload, Any, Hardware], str]:
    """Names of a plan's kernels in the code, by key."""
    names: dict[tuple[ConvWorkload, Any, Hardware], str] = {}
    for conv in planned:
        for kernel in conv.kernels:
            name = f"conv_{kernel.choice.family.name}_{len(names)}"
            names.setdefault(kernel.key, name)
    return names


#: By the variable that each computes.
Plan = dict[relax.Var, PlannedConv]

NOTHING_SEEN: Mapping[relax.Var, float] = {}


def plan(
    mod: tvm.IRModule,
    regions: Mapping[relax.Var, Region],
    chooser: Chooser,
    pairs: bool = True,
    seen: Mapping[relax.Var, float] = NOTHING_SEEN,
) -> Plan:
    """Decides for every region of `mod`, so that the sum of estimated times is least.

    Records then decide on families and configurations, but not on layouts: measured times do not
    compare with estimates, and there are records for the layouts so chosen.

    pairs: whether two convolutions may become one kernel. seen: the largest magnitudes of tensors
    on the feeds that a build is calibrated with.

    Raises `ModelError` for a region that is no convolution, `FamilyError` for one that no family
    computes, and `ConfigError` for a pin on no layer or one that does not fit.
    """
    chooser.require_layers(region.name for region in regions.values())
    flow = Dataflow.of(mod)
    for var, region in regions.items():
        _check(region, Place(var, 0, region.k), chooser.precision)
    regions = balance_ranges(choose_operands(regions, chooser), flow, seen)
    regions = keep_ranges(regions, flow, chooser.precision, seen)
    regions = scale_weights(regions, flow, chooser.precision)
    places = {var: Place(var, 0, region.k) for var, region in regions.items()}
    places |= concat_places(regions, flow)
    places = {var: shuffled(place, flow) for var, place in places.items()}
    regions = absorb_gates(regions, places, flow, chooser)
    regions, places = absorb_pools(regions, places, flow, chooser)
    if pairs:
        regions = pair_convs(regions, places, flow, chooser)
    layouts = choose_layouts(regions, places, flow, chooser)
    decided: Plan = {}
    for var, region in regions.items():
        x, residual = (
            layouts.get(one, PLAIN).layout if isinstance(one, relax.Var) else NHWC
            for one in (region.x, region.residual)
        )
        own = written(region, places[var].buffer, regions, flow, chooser.precision)
        layout = layouts[var]
        about = f"the output is {layout.layout}: {layout.reason}"
        kernels = tuple(
            PlannedKernel(region, chooser.choose(region.name, w, about), weight)
            for w, weight in workloads(region, places[var], x, residual, layout.layout, own)
        )
        for kernel in kernels:
            _check_range(region, kernel)
        decided[var] = PlannedConv(region.name, region, places[var], kernels, layout)
    return decided


def _check(region: Region, place: Place, precision: Precision) -> None:
    """Raises `ModelError` for a region whose numbers are no convolution's."""
    try:
        workloads(region, place, NHWC, NHWC, NHWC, precision)
    except ValueError as error:
        raise ModelError(
            f"conv {region.name!r} can't be computed",
            note=str(error),
            hint="is the image of the size that the model expects?",
        ) from error


def _check_range(region: Region, kernel: PlannedKernel) -> None:
    """Raises `ModelError` for weights that their dtype, or indices that 32 bits can't hold."""
    largest = float(np.abs(kernel.weight).max())
    if region.prologue is not None:
        largest = max(largest, float(np.abs(region.prologue.weight).max()))
    w = kernel.choice.workload
    multiplied = dtypes.get(w.precision.operands[1])
    if not multiplied.integer and not largest <= multiplied.largest:
        raise ModelError(
            f"conv {region.name!r} has a weight of magnitude {largest:g}, "
            f"too large for {multiplied.name}",
            note="batch norms and scales are folded into weights first",
            hint="a precision of larger range holds it",
        )
    elements = max(math.prod(w.in_shape), math.prod(w.buffer_shape))
    if elements >= 2**31:
        raise ModelError(
            f"conv {region.name!r} reads or writes {elements} elements, past 32-bit indices",
            hint="build with a smaller batch",
        )
