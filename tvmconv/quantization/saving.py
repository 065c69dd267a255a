"""Microseconds that a layer saves in int8: the one place that knows, until a cost model does."""

from __future__ import annotations

from intrinsics.dtypes import FP16
from schedules.machine import cost
from schedules.machine.cost import Machine
from tvmconv.onnx.kinds import Layer

#: What int8 takes of fp16's time, where either arithmetic or memory limits: an integer has half the
#: bytes, and every tensor core that multiplies int8 does so at twice the rate of fp16.
SHARE = 0.5


def saved_us(layer: Layer, machine: Machine) -> float:
    """Returns the microseconds that a layer's kernel takes less in int8 than in fp16.

        saved = (1 - 0.5) * max(operations / rate of fp16, bytes in fp16 / bandwidth)

    The floor of the layer, its padding and its latency left out: a bound from above for what small
    layers save. 0 for a layer whose sizes are not known.
    """
    floor = cost.floor(layer.macs, layer.moved_bytes, machine, FP16.name)
    return (1 - SHARE) * floor.us
