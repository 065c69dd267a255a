"""Decide, for every marked convolution, its layouts and its schedule.

No tensor is ever converted by a kernel of its own: the gather of an implicit GEMM reads, and its
epilogue writes, whichever layout it is told. So the rule is short. Every activation is NHWC,
which all operators read. With the knob TVMCONV_PACK it is packed (NHWC16n16c) if its producer and
all its readers are tensorized convolutions and its batch and channels are whole blocks. That is
not the default because it was slower wherever it was measured, on a ResNet-18: on an H200 by 17 %
at batch 16 and by 10 % at batch 128, on a CPU by 13 % at batch 16.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from schedules.choose import Choice, choose
from schedules.hardware import Hardware
from schedules.workload import NHWC, PACKED, ConvWorkload, Epilogue, Layout
from tvmconv import knobs
from tvmconv.errors import ModelError
from tvmconv.passes.regions import COMPOSITE, Region, read_region


@dataclass(frozen=True)
class PlannedConv:
    """A convolution of the model with all that was decided about it."""

    name: str
    region: Region
    choice: Choice
    #: Why the output has its layout.
    layout_reason: str


#: The calls of marked functions in `main`, and what was decided for each.
Plan = dict[relax.Call, PlannedConv]


def plan(mod: tvm.IRModule, hardware: Hardware) -> Plan:
    """Decides for every marked convolution of `mod`. Raises `ModelError` for one that is none."""
    calls = {binding.var: binding.value for binding in _marked(mod)}
    regions = {var: read_region(mod[call.op]) for var, call in calls.items()}
    readers = _readers(mod)
    layouts = {var: _layout(var, regions, readers) for var in calls}
    decided: Plan = {}
    for var, call in calls.items():
        region = regions[var]
        read = [layouts.get(arg, (NHWC, ""))[0] for arg in call.args]
        try:
            w = _workload(region, read, layouts[var][0], _out_dtype(var, regions, readers))
        except ValueError as error:
            raise ModelError(
                f"conv {region.name!r} can't be computed",
                note=str(error),
                hint="is the image of the size that the model expects?",
            ) from error
        _check_range(region, w)
        decided[call] = PlannedConv(region.name, region, choose(w, hardware), layouts[var][1])
    return decided


def _check_range(region: Region, w: ConvWorkload) -> None:
    """Raises `ModelError` for weights that fp16, or indices that 32 bits can't hold."""
    largest = float(np.abs(region.weight).max())
    if not largest <= np.finfo(np.float16).max:
        raise ModelError(
            f"conv {region.name!r} has a weight of magnitude {largest:g}, too large for fp16",
            note="batch norms and scales are folded into weights first",
            hint="there is no other precision yet",
        )
    elements = max(math.prod(w.in_shape), math.prod(w.out_shape))
    if elements >= 2**31:
        raise ModelError(
            f"conv {region.name!r} reads or writes {elements} elements, past 32-bit indices",
            hint="build with a smaller batch",
        )


def _bindings(mod: tvm.IRModule) -> Iterator[relax.VarBinding]:
    for block in mod["main"].body.blocks:
        yield from block.bindings


def _marked(mod: tvm.IRModule) -> Iterator[relax.VarBinding]:
    """Bindings of `main` that call a marked function."""
    for binding in _bindings(mod):
        call = binding.value
        if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.GlobalVar):
            function = mod[call.op]
            if function.attrs and function.attrs.get("Composite") == COMPOSITE:
                yield binding


def _readers(mod: tvm.IRModule) -> dict[relax.Var, list[tuple[relax.Var, str]]]:
    """Who reads each variable: the variable bound, and what kind of reader it is."""
    readers: dict[relax.Var, list[tuple[relax.Var, str]]] = defaultdict(list)
    for binding in _bindings(mod):
        value = binding.value
        kind = getattr(value.op, "name", "") if isinstance(value, relax.Call) else "a tuple"
        for used in relax.analysis.free_vars(value):
            readers[used].append((binding.var, kind))
    for used in relax.analysis.free_vars(mod["main"].body.body):
        readers[used].append((used, "the network's output"))
    return readers


def _tensorized(region: Region) -> bool:
    return region.groups == 1


def _layout(
    var: relax.Var,
    regions: dict[relax.Var, Region],
    readers: dict[relax.Var, list[tuple[relax.Var, str]]],
) -> tuple[Layout, str]:
    """The layout of a convolution's output, and why."""
    if not knobs.pack():
        return NHWC, "what every operator reads"
    batch, channels = regions[var].x_shape[0], regions[var].weight.shape[0]
    if batch % PACKED.n:
        return NHWC, f"a batch of {batch} is no multiple of {PACKED.n}"
    if channels % PACKED.c:
        return NHWC, f"{channels} channels are no multiple of {PACKED.c}"
    if not _tensorized(regions[var]):
        return NHWC, "not written by a tensorized convolution"
    for reader, kind in readers[var]:
        if reader is var or reader not in regions:
            return NHWC, f"read by {kind.rpartition('.')[2]}"
        if not _tensorized(regions[reader]):
            return NHWC, "read by a convolution that is not tensorized"
    return PACKED, "read by tensorized convolutions only"


#: Operators that only move or compare values, and so give in fp16 just what they give in fp32.
FOLLOWS_INPUT = (
    "relax.nn.max_pool2d",
    "relax.nn.relu",
    "relax.maximum",
    "relax.minimum",
    "relax.concat",
    "relax.permute_dims",
    "relax.reshape",
)


def _out_dtype(
    var: relax.Var,
    regions: dict[relax.Var, Region],
    readers: dict[relax.Var, list[tuple[relax.Var, str]]],
) -> str:
    """fp16 where somebody reads the result so; fp32, unrounded, where nobody does."""
    for reader, kind in readers[var]:
        if reader in regions or kind in FOLLOWS_INPUT:
            return "float16"
    return "float32"


def _workload(region: Region, read: list[Layout], out: Layout, out_dtype: str) -> ConvWorkload:
    residual = region.residual_argument
    n, h, w, c = region.x_shape
    k, _, r, s = region.weight.shape
    epilogue = Epilogue(
        bias=region.bias is not None,
        residual=residual is not None,
        residual_layout=NHWC if residual is None else read[residual],
        activation=region.activation,
        out_dtype=out_dtype,
    )
    return ConvWorkload(
        n,
        h,
        w,
        c,
        k,
        r,
        s,
        stride=region.stride,
        padding=region.padding,
        dilation=region.dilation,
        groups=region.groups,
        in_layout=read[region.x_argument],
        out_layout=out,
        epilogue=epilogue,
    )
