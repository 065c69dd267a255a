"""Operators between two convolutions, where TVM carries the layout NHWC across them, axes and all.

onnxruntime says what is right, by `tvmconv.compare`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support import kernels
from tests.support.checks import DIRECT
from tests.support.models import Graph, random_feed
from tests.support.reference import session

C = 8


def of(operator: str, *constants: object, **attributes: object) -> Callable[[Graph, str], str]:
    """One operator on what comes before, with constants for its other inputs."""

    def apply(g: Graph, x: str) -> str:
        more = [g.constant(np.asarray(value)) if value is not None else "" for value in constants]
        return g.op(operator, x, *more, **attributes)

    return apply


def channels(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, np.float32)


#: Name to what stands between the convolutions; its output has C channels, and rows and columns.
BETWEEN: dict[str, Callable[[Graph, str], str]] = {
    "prelu of one slope": of("PRelu", channels(1)),
    "prelu of one slope, as a scalar": of("PRelu", np.float32(0.25)),
    "prelu by channel": of("PRelu", channels(C, 1, 1)),
    "prelu by column": of("PRelu", channels(6)),
    "prelu by pixel": of("PRelu", channels(6, 6)),
    "prelu by element": of("PRelu", channels(1, C, 6, 6)),
    "leaky relu": of("LeakyRelu", alpha=0.2),
    "softmax over channels": of("Softmax", axis=1),
    "softmax over channels, from the end": of("Softmax", axis=-3),
    "softmax over columns": of("Softmax", axis=-1),
    "log softmax": of("LogSoftmax", axis=1),
    "clip": of("Clip", np.float32(-0.5), np.float32(0.5)),
    "clip from below": of("Clip", np.float32(-0.5)),
    "pow": of("Pow", np.float32(2)),
    "pow by an integer": of("Pow", np.int64(3)),
    "mul by channel": of("Mul", channels(1, C, 1, 1)),
    "add by column": of("Add", channels(6)),
    "lrn": of("LRN", size=3),
    "instance normalization": of("InstanceNormalization", channels(C), channels(C)),
    "batch normalization": lambda g, x: of(
        "BatchNormalization", channels(C), channels(C), channels(C), channels(C) + 0.5
    )(g, g.op("Relu", x)),
    "mean variance normalization": of("MeanVarianceNormalization"),
    "layer normalization over columns": of("LayerNormalization", channels(6), channels(6)),
    "softplus": of("Softplus"),
    "mish": of("Mish"),
    "erf": of("Erf"),
    "hard swish": of("HardSwish"),
    "celu": of("Celu"),
    "reduce mean of channels": lambda g, x: g.op(
        "Mul", x, of("ReduceMean", axes=[1], keepdims=1)(g, x)
    ),
    "reduce max of columns": lambda g, x: g.op(
        "Mul", x, of("ReduceMax", axes=[-1], keepdims=1)(g, x)
    ),
    "squeeze and excite": lambda g, x: g.op(
        "Mul", x, g.op("Sigmoid", of("ReduceMean", axes=[-1, -2], keepdims=1)(g, x))
    ),
    "average pool, ceil": of(
        "AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 0, 0, 1]
    ),
    "average pool, pads counted": of(
        "AveragePool", kernel_shape=[3, 3], pads=[1, 1, 0, 0], count_include_pad=1
    ),
    "max pool, same": of("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "max pool, dilated": of("MaxPool", kernel_shape=[2, 2], dilations=[2, 3], ceil_mode=1),
    "lp pool": of("LpPool", kernel_shape=[2, 2], p=2),
    "pad": of("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 1]), np.float32(0.5)),
    "pad by reflection": of("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 1]), mode="reflect"),
    "pad of channels": lambda g, x: of("Slice", np.array([0]), np.array([C]), np.array([1]))(
        g, of("Pad", np.array([0, 1, 0, 0, 0, 2, 0, 0]), np.float32(0.5))(g, x)
    ),
    "slice of rows": of("Slice", np.array([1]), np.array([-1]), np.array([-2])),
    "slice backwards": of("Slice", np.array([-1]), np.array([-99]), np.array([1]), np.array([-1])),
    "split and concat": lambda g, x: _split(g, x, axis=-3),
    "split and concat of columns": lambda g, x: _split(g, x, axis=3),
    "transpose": of("Transpose", perm=[0, 1, 3, 2]),
    "shuffle": lambda g, x: of("Reshape", np.array([2, C, 6, 6]))(
        g,
        of("Transpose", perm=[0, 2, 1, 3, 4])(g, of("Reshape", np.array([2, 2, 4, 6, 6]))(g, x)),
    ),
    "squeeze": lambda g, x: of("Unsqueeze", np.array([-2]))(
        g,
        of("Squeeze", np.array([-2]))(
            g, of("Slice", np.array([2]), np.array([3]), np.array([2]))(g, x)
        ),
    ),
    "flatten and back": lambda g, x: of("Reshape", np.array([2, C, 6, 6]))(
        g, of("Flatten", axis=-3)(g, x)
    ),
    "cast there and back": lambda g, x: of("Cast", to=1)(g, of("Cast", to=11)(g, x)),
    "space to depth and back": lambda g, x: of("DepthToSpace", blocksize=2, mode="CRD")(
        g, of("SpaceToDepth", blocksize=2)(g, x)
    ),
    "expand": lambda g, x: of("Expand", np.array([2, C, 6, 6]))(g, of("GlobalAveragePool")(g, x)),
    "resize, linear": of("Resize", None, np.array([1, 1, 1.5, 2], "f"), mode="linear"),
    "resize, cubic": of("Resize", None, None, np.array([2, C, 9, 4]), mode="cubic"),
    "where": lambda g, x: g.op("Where", of("Greater", np.float32(0))(g, x), x, g.op("Neg", x)),
    "arithmetic with its argmax": lambda g, x: g.op(
        "Add", x, of("Cast", to=1)(g, of("ArgMax", axis=1, keepdims=1)(g, x))
    ),
    "gather of channels": of("Gather", np.arange(C)[::-1].copy(), axis=1),
    "tile": of("Tile", np.array([1, 1, 2, 1])),
}


def _split(g: Graph, x: str, axis: int) -> str:
    first = of("Split", np.array([3, 5 if axis == -3 else 3]), axis=axis)(g, x)
    g.nodes[-1].output.append(f"{first}.rest")
    return g.op("Concat", f"{first}.rest", first, axis=axis)


#: Operators that are not in opset 17, and the first opset that has them.
LATER = {"mish": 18}


def network(*names: str) -> onnx.ModelProto:
    """A convolution, each of these operators on its result, and a convolution after each."""
    g = Graph([2, 3, 6, 6])
    x = g.op("Add", g.conv("input", 3, C), g.constant(np.float32(0.1)))
    outputs = [g.conv(BETWEEN[name](g, x), C, 5, r=1) for name in names]
    return g.model(*outputs, opset=max(LATER.get(name, 17) for name in names))


def by_opset() -> list[list[str]]:
    """All operators, in groups of one opset."""
    return [[name for name in BETWEEN if name not in LATER], [*LATER]]


@pytest.mark.parametrize("names", by_opset(), ids=len)
def test_every_operator_on_this_cpu(names: list[str]) -> None:
    """In one network, each by itself compared with onnxruntime."""
    model = network(*names)
    feed = random_feed([2, 3, 6, 6])
    given = tvmconv.build(model, target="llvm").run(feed)
    expected = session(model).run(None, feed)
    errors = {
        name: kernels.relative_l2(got, right)
        for name, got, right in zip(names, given.values(), expected, strict=True)
    }
    assert {name: error for name, error in errors.items() if not error <= 5e-3} == {}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.parametrize("arch", [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90a"])
def test_every_operator_builds_for_cuda(arch: str) -> None:
    """With convolutions by the family whose kernels compile fastest; `test_onnx_suite` has all
    operators for both architectures, to CUDA's text."""
    for names in by_opset():
        tvmconv.build(network(*names), target="cuda", arch=arch, families=DIRECT)


@pytest.mark.slow
@pytest.mark.parametrize("name", BETWEEN)
def test_an_operator_between_convolutions(name: str) -> None:
    model = network(name)
    exe = tvmconv.build(model, target="llvm")
    assert tvmconv.compare(model, exe).relative_l2 <= 5e-3
