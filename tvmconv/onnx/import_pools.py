"""Imports MaxPool and AveragePool with explicit pads; TVM's importer rounds SAME_LOWER down, and
forgets dilations for SAME.

Formulas of auto_pad and ceil_mode: https://onnx.ai/onnx/operators/onnx__MaxPool.html and
onnx__AveragePool.html.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from tvmconv.onnx.import_convs import Attributes, sizes_of
from tvmconv.onnx.runtime_shapes import ceil_windows


def pool(operator: str) -> Callable[..., relax.Expr]:
    """Imports MaxPool or AveragePool of one to three dimensions."""
    kind = {"MaxPool": "max_pool", "AveragePool": "avg_pool"}[operator]

    def pooled(
        builder: relax.BlockBuilder, inputs: Sequence[Any], attributes: dict[str, Any], opset: int
    ) -> relax.Expr:
        sizes, taps = sizes_of(inputs[0])[2:], list(attributes["kernel_shape"])
        how = Attributes.read(attributes, sizes, taps, transposed=False)
        pads, ceil = how.pads, bool(attributes.get("ceil_mode", 0))
        counted = bool(attributes.get("count_include_pad", 0))
        reached = _reached(how, sizes, taps)
        if ceil and not counted:
            pads, ceil = reached.pads, False
        elif ceil:
            # TVM tells pads, which are counted, from what lies beyond them, which is not.
            ceil = not reached.short
        op = getattr(relax.op.nn, f"{kind}{len(sizes)}d")
        padding = [one[0] for one in pads] + [one[1] for one in pads]
        strides, dilations = list(how.strides), list(how.dilations)
        return op(inputs[0], taps, strides, padding, dilations, ceil, counted)

    return pooled


@dataclass(frozen=True)
class _Reached:
    """Pads that end with the last window of ceil_mode.

    short: along some axis a window is left out, as it would start in the pad after the image.
    """

    pads: tuple[tuple[int, int], ...]
    short: bool


def _reached(how: Attributes, sizes: Sequence[int], taps: Sequence[int]) -> _Reached:
    pads, short = [], False
    for size, count, stride, dilation, (before, after) in zip(
        sizes, taps, how.strides, how.dilations, how.pads, strict=True
    ):
        span = (count - 1) * dilation + 1
        windows, left_out = ceil_windows(size, span, stride, before, after)
        short = short or left_out
        reach = (windows - 1) * stride + span
        pads.append((before, max(reach - size - before, 0)))
    return _Reached(tuple(pads), short)
