"""Pools with every form of pads, against onnxruntime; and shapes that are held to ONNX's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tvm import relax

import tvmconv
from tests.support.checks import DIRECT, all_right
from tests.support.models import Graph, random_feed
from tests.support.reference import session
from tvmconv.errors import ModelError
from tvmconv.onnx import operators

SHAPES = [(1, 2, 9, 7), (1, 2, 8, 6), (1, 2, 9), (1, 2, 5, 5, 4)]
SAME = ["SAME_UPPER", "SAME_LOWER"]


def model(
    operator: str, shape: Sequence[int], kernel: int, stride: int, opset: int = 19, **how: Any
) -> onnx.ModelProto:
    g, rank = Graph(shape), len(shape) - 2
    kernels, strides = [kernel] * rank, [stride] * rank
    return g.model(
        g.op(operator, "input", kernel_shape=kernels, strides=strides, **how), opset=opset
    )


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("auto_pad", SAME)
def test_pads_that_keep_the_size(operator: str, auto_pad: str) -> None:
    """Strides divide the size or not."""
    all_right(
        {
            f"{shape}, {kernel} by {stride}": model(
                operator, shape, kernel, stride, auto_pad=auto_pad
            )
            for shape, (kernel, stride) in itertools.product(SHAPES, [(2, 2), (3, 2), (3, 1)])
        }
    )


#: By ONNX's formula, for windows that span 7 rows and 4 columns.
PADS = {"VALID": [0, 0, 0, 0], "SAME_UPPER": [3, 1, 3, 2], "SAME_LOWER": [3, 2, 3, 1]}


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("auto_pad", PADS)
def test_dilated_windows(operator: str, auto_pad: str) -> None:
    """onnxruntime forgets dilations for SAME, so it is given the pads themselves."""
    for stride in (1, 2):
        shape, dilated = (1, 2, 9, 7), {"dilations": [2, 1]}
        feeds = random_feed(shape)
        proto = model(operator, shape, 4, stride, auto_pad=auto_pad, **dilated)
        (got,) = tvmconv.build(proto, target="llvm").run(feeds).values()
        explicit = model(operator, shape, 4, stride, pads=PADS[auto_pad], **dilated)
        np.testing.assert_allclose(got, session(explicit).run(None, feeds)[0], rtol=1e-5)


#: Kernel, stride, pads before and after: the last window starts in the image, or in the pad.
INSIDE = [(3, 2, 1, 1), (3, 2, 0, 0), (2, 2, 0, 0), (3, 4, 1, 1)]
OUTSIDE = [(2, 3, 0, 0), (2, 3, 1, 1), (3, 3, 0, 2)]


def rounded_up(operator: str, opset: int, windows: Sequence[Any], **how: int) -> Any:
    return {
        f"{kernel} by {stride}, {before} {after}": model(
            operator,
            (1, 2, 9, 8),
            kernel,
            stride,
            opset,
            ceil_mode=1,
            pads=[before] * 2 + [after] * 2,
            **how,
        )
        for kernel, stride, before, after in windows
    }


@pytest.mark.parametrize("opset", [11, 19, 22])
def test_windows_that_are_rounded_up(opset: int) -> None:
    """None starts in the pad, though ONNX's shape inference counts it before opset 22."""
    for operator in ("MaxPool", "AveragePool"):
        all_right(rounded_up(operator, opset, [*INSIDE, *OUTSIDE]))
    all_right(rounded_up("AveragePool", opset, [*INSIDE, *OUTSIDE], count_include_pad=1))


def test_what_follows_has_the_right_shape_too() -> None:
    proto = rounded_up("MaxPool", 17, [(2, 3, 0, 0)])["2 by 3, 0 0"]
    made, inner = proto.graph.output[0].name, proto.graph.node[0]
    inner.output[0] = "inner"
    proto.graph.node.append(helper.make_node("Relu", ["inner"], [made]))
    (got,) = tvmconv.build(proto, target="llvm").outputs
    assert got.shape == session(proto).run(None, random_feed((1, 2, 9, 8)))[0].shape == (1, 2, 3, 3)


def test_a_pool_of_the_lower_pads_after_a_convolution() -> None:
    g = Graph([1, 8, 9, 7])
    x = g.op("Relu", g.conv("input", 8, 8))
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}
    all_right({"": g.model(g.conv(g.op("MaxPool", x, **pool), 8, 8))}, families=DIRECT)
    exe = tvmconv.inspect(g.model(x), arch="sm_90a")
    assert exe.buildable


def test_a_tensor_of_another_shape_than_onnx_infers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything is compiled, and by the node's name."""

    def short(builder: Any, inputs: Any, attributes: Any, opset: int) -> relax.Expr:
        return relax.op.strided_slice(inputs[0], [0], [0], [1])

    monkeypatch.setitem(operators.OWN, "HardSigmoid", short)
    g = Graph([2, 3])
    proto = g.model(g.op("Relu", g.op("HardSigmoid", "input", name="activation")))
    for build in (tvmconv.build, tvmconv.inspect):
        with pytest.raises(ModelError) as error:
            build(proto, target="llvm")
        assert "HardSigmoid 'activation' would give the shape (1, 3)" in error.value.what
        assert "ONNX infers (2, 3)" in error.value.what
