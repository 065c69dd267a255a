"""Find each convolution together with the operators that its kernel can compute.

Before:  y = conv2d(pad(x), weight); y = batch norm, bias; y = add(y, residual); y = relu(y)
After:   the same bindings, and a `Region` that describes them; `lower_convs` replaces the last of
         them by a kernel, and the others are removed as unused
Requires: NHWC activations, constant weights; no other reader of an absorbed value
Formula: y = activation(conv(x, weight) + bias + residual), the `Epilogue` of schedules; quantised,
         if the model says so
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvmconv.passes.graph import Dataflow, shape
from tvmconv.passes.regions.absorb_activation import activation_after
from tvmconv.passes.regions.absorb_input_quantization import fed_numbers_before
from tvmconv.passes.regions.absorb_input_scale import input_scale_before
from tvmconv.passes.regions.absorb_pad import pad_before
from tvmconv.passes.regions.absorb_residual import residual_after
from tvmconv.passes.regions.absorb_scale import scale_after
from tvmconv.passes.regions.anchors import positions
from tvmconv.passes.regions.quantization import numbers_before, quantised_after, sums_after
from tvmconv.passes.regions.region import Region


def find_regions(
    mod: tvm.IRModule,
    named: Sequence[tuple[relax.Expr, str]],
    weight_scales: Mapping[str, NDArray[np.float64]] | None = None,
) -> dict[relax.Var, Region]:
    """The region of every convolution with constant weights, by the variable that it computes.

    named: weights, as `anchors` returns them, with the name of each ONNX node. weight_scales: by
    name, (K,), of quantised weights: weight / scale is whole numbers.
    """
    flow = Dataflow.of(mod)
    found = {}
    # The sum of two convolutions is absorbed by the first; the other ends before it.
    taken: set[relax.Var] = set()
    for var, at in positions(flow, named).items():
        name = named[at][1]
        region = pad_before(_anchor(name, flow.op(var), var, flow.values[var]), flow)
        region = numbers_before(region, flow, (weight_scales or {}).get(name))
        region = fed_numbers_before(region, flow)
        region = input_scale_before(region, flow)
        region = grow(region, flow, taken)
        found[region.output] = region
    return found


def grow(region: Region, flow: Dataflow, taken: set[relax.Var]) -> Region:
    """Lets a region absorb all that the rules allow, except variables in `taken`, and adds what it
    absorbs to `taken`."""
    while (larger := _absorbed(region, flow)) is not None and larger.output not in taken:
        region = larger
        taken.add(region.output)
    return region


def _absorbed(region: Region, flow: Dataflow) -> Region | None:
    """The region with one thing more in it, by the first rule that applies; or None."""
    return (
        scale_after(region, flow)
        or residual_after(region, flow)
        or activation_after(region, flow)
        or quantised_after(region, flow)
        or sums_after(region, flow)
    )


def _anchor(name: str, op: str, var: relax.Var, call: relax.Call) -> Region:
    weight = call.args[1].value.numpy()
    x_shape = shape(call.args[0])
    if op == "relax.matmul":
        rows = math.prod(x_shape[:-1])
        matrix = weight.T[:, :, None, None]
        return Region(name, op, call.args[0], (rows, 1, 1, x_shape[-1]), var, matrix, (1, 1))
    attributes = call.attrs
    n, h, w, c = x_shape
    _, p, q, _ = shape(call)
    stride_h, stride_w = map(int, attributes.strides)
    top, left, bottom, right = map(int, attributes.padding)
    dilation_h, dilation_w = map(int, attributes.dilation)
    region = Region(
        name,
        op,
        call.args[0],
        (n, h, w, c),
        var,
        weight,
        (p, q),
        stride=(stride_h, stride_w),
        padding=(top, left, bottom, right),
        dilation=(dilation_h, dilation_w),
        groups=int(attributes.groups),
    )
    return region if region.transposed else replace(region, weight=weight.transpose(0, 3, 1, 2))
