"""A depthwise convolution and the 1x1 one after it in one kernel: what is between is not written.

A block has a tile of output pixels. Chunk by chunk of channels it copies the patch of the input
that the tile reads to shared memory. Both convolutions run on tensor cores, the depthwise one as
products with diagonal matrices. Its results, with bias and activation and rounded as they would be
in memory, are multiplied at once by the weights of the 1x1 convolution; of fp16 they are transposed
in registers first, of integers they are where they have to be.

    config       the knobs; space: which of them fit, and are worth trying
    plan         a workload and a configuration in numbers, and the layout of shared memory
    kernel       the kernel, in a `block`: pipeline and projection
    copies       what it copies to shared memory
    prologue     the depthwise filter as one operand
    depthwise    the depthwise convolution; integer_depthwise: of 8-bit integers
    epilogue     from the accumulators to memory
    footprint    what the kernel takes of a GPU

Each number that counts is multiplied beside seven zeros, or 15 of integers, for which the tensor
cores of a kernel that waits for memory have time. Tall tiles of a warp read least. Zero times what
is not finite is NaN: infinities of one channel reach the seven beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from intrinsics import dtypes
from schedules.conv.precision import INT8, UINT8, Precision
from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload
from schedules.families.depthwise_projection import space as depthwise_projection_space
from schedules.families.depthwise_projection.config import (
    COLUMNS,
    DepthwiseProjectionConfig,
)
from schedules.families.depthwise_projection.footprint import footprint
from schedules.families.depthwise_projection.kernel import kernel
from schedules.families.depthwise_projection.plan import Plan
from schedules.families.depthwise_projection.prologue import pack_prologue
from schedules.families.depthwise_projection.space import check
from schedules.family import (
    ONE_CONVOLUTION,
    Family,
    Given,
    Match,
    Reject,
    fitting,
    other_operands,
    other_precision,
    prologue_given,
)
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware
from schedules.threads.launch import WARP

#: cp.async, ldmatrix and m16n8k16 are there from Ampere on.
MIN_SM = 80
#: More taps are more registers than a thread has.
MOST_TAPS = 25


class DepthwiseProjectionFamily(Family):
    """Workloads with a prologue: NHWC to NHWC, 1x1 after depthwise."""

    name = "depthwise_projection"
    tensorized = True
    config_type: type = DepthwiseProjectionConfig
    version = 1
    default_measured = False

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Returns the best guess, or why the family declines."""
        reason = _mismatch(w, hardware)
        if reason:
            return Reject(self.name, reason)
        return fitting(self.name, next(self.space(w, hardware), None), hardware)

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[DepthwiseProjectionConfig]:
        """Returns the configurations worth trying, the best guess first."""
        return depthwise_projection_space.space(w, hardware)

    def check(self, w: ConvWorkload, config: DepthwiseProjectionConfig, hardware: Hardware) -> None:
        """Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)

    def footprint(
        self, w: ConvWorkload, config: DepthwiseProjectionConfig, hardware: Hardware
    ) -> Footprint:
        """Returns what the kernel takes of a GPU."""
        return footprint(w, config)

    def schedule(
        self, w: ConvWorkload, config: DepthwiseProjectionConfig, hardware: Hardware
    ) -> tirx.PrimFunc:
        """Returns the kernel, a function of the operands of `signature`."""
        check(w, config, hardware)
        return kernel(w, config)

    def padded_macs(self, w: ConvWorkload, config: DepthwiseProjectionConfig) -> int:
        """Returns the multiply-adds that the instructions carry out."""
        plan = Plan(w, config)
        pixels = plan.blocks * math.prod(plan.tile)
        channels = plan.chunks * config.chunk * plan.depth
        # Of each instruction, for a pixel and channel, as many products as a fragment has rows.
        depthwise = plan.products * plan.instruction.m
        return pixels * channels * (depthwise + plan.columns * COLUMNS)

    def signature(self, w: ConvWorkload, config: DepthwiseProjectionConfig) -> Signature:
        """Returns the operands; weight and prologue are packed to `Plan`'s shapes."""
        return Plan(w, config).signature

    def pack(
        self, w: ConvWorkload, config: DepthwiseProjectionConfig, given: Given
    ) -> dict[str, NDArray[Any]]:
        """Packs the weight (K, C, 1, 1) as the second operand of each instruction, lane by lane,
        and the prologue's filters and bias as one operand."""
        plan = Plan(w, config)
        matrix = np.zeros((plan.steps * plan.depth, w.k), dtypes.get(w.precision.operands[1]).numpy)
        matrix[: w.c] = given[WEIGHT][:, :, 0, 0].T
        # step, upper half of it, register, element; run, pair of columns, instruction, column
        split = matrix.reshape(plan.steps, 2, 4, plan.each, -1, 4, plan.run, 2)
        # step, run, instruction, lane = (pair of columns, column, register), upper half, element
        lanes = split.transpose(0, 4, 6, 5, 7, 2, 1, 3)
        # As many instructions side by side as a lane loads at a time.
        shape = (plan.steps, -1, plan.together, WARP, 2 * plan.each)
        together = lanes.reshape(shape).transpose(0, 1, 3, 2, 4)
        return plan.signature.pack(
            given,
            weight=together.reshape(plan.weight_shape).copy(),
            prologue=pack_prologue(plan.prologue, prologue_given(given)),
        )


def _mismatch(w: ConvWorkload, hardware: Hardware) -> str:
    """Why the family does not take `w`; empty where it does."""
    first = w.prologue
    if first is None:
        return ONE_CONVOLUTION
    if hardware.kind != "cuda":
        return "written in instructions of a GPU"
    if hardware.sm < MIN_SM:
        return f"mma.sync m16n8k16 and cp.async need sm_{MIN_SM}, this is {hardware.name}"
    if (w.r, w.s, w.stride, w.padding, w.groups) != (1, 1, (1, 1), (0, 0, 0, 0), 1):
        return "the second convolution is not 1x1, or has strides, padding or groups"
    if first.dilation != (1, 1) or first.r * first.s > MOST_TAPS:
        return f"a filter of {first.r}x{first.s}, dilation {first.dilation}"
    layouts = [first.in_layout, w.out_layout] + [w.epilogue.residual_layout] * w.epilogue.residual
    for layout in layouts:
        if layout.packed:
            return f"everything has to be NHWC, and something is {layout}"
    if reason := _other_numbers(w):
        return reason
    if "prelu" in (w.epilogue.activation.kind, first.epilogue.activation.kind):
        return "a prelu's slopes are an operand that it does not have"
    if w.window is not None or w.epilogue.pool is not None:
        return "writes a tensor of its own, and pools nothing"
    if max(math.prod(first.in_shape), math.prod(w.out_shape)) >= 2**31:
        return "elements are numbered in 32 bits, and a tensor has more"
    return ""


def _other_numbers(w: ConvWorkload) -> str:
    """Why the family does not multiply such numbers, or so many channels of them; empty where it
    does."""
    own, integer = w.precision, dtypes.get(w.precision.x).integer
    if w.c % 8 or w.k % COLUMNS or (own.result != own.x and not integer):
        return f"{w.c} channels to {w.k} of {own.result}: it takes eight at a time"
    if not integer:
        return other_precision(w, Precision())
    return f"{own}: it scales its sums" if own.sums else other_operands(w, INT8, UINT8)
