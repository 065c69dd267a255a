"""The outline of TVM's kernels, held against the kernels that a build really calls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from benchmarks.zoo import zoo
from tests.support.models import Graph, residual_net
from tvmconv.runtime.feeds import random_feeds


def called(exe: tvmconv.Executable) -> Counter[str]:
    """Kernels that a run calls, by name, but for the convolutions'."""
    names: Counter[str] = Counter()

    def heard(_: Any, name: str, before: bool, *others: Any) -> int:
        if before and not name.startswith(("vm.builtin.", "conv_")):
            names[name] += 1
        return 0

    exe.traced(heard)(exe.transfer_in(random_feeds(exe.inputs)))
    return names


def mixed() -> onnx.ModelProto:
    """Pools, a concatenation, groups of equal kernels, a reshape, a softmax, a split."""
    g = Graph([2, 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 16))
    pool = g.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
    mean = g.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4)
    x = g.conv(g.op("Concat", pool, mean, axis=1), 32, 16)
    scale = g.constant(g.rng.standard_normal((1, 16, 1, 1)).astype("f4"))
    for _ in range(2):
        x = g.conv(g.op("Sin", g.op("Mul", g.op("Exp", x), scale)), 16, 16)
    flat = g.op("Reshape", x, g.constant(np.array([2, -1])))
    return g.model(g.op("Softmax", flat), g.op("Tanh", x))


@pytest.mark.parametrize("model", [residual_net(1), mixed()], ids=["residual", "mixed"])
def test_the_outline_has_the_kernels_that_are_called(model: onnx.ModelProto) -> None:
    exe = tvmconv.build(model, target="llvm")
    assert Counter(one.name for one in exe.report.kernels) == called(exe)
    assert tvmconv.inspect(model, target="llvm").plan.kernels == exe.report.kernels


def test_an_operator_may_become_several_kernels() -> None:
    """Size is a shape, a tensor of it and a product; Exp before and after keep their places."""
    g = Graph([1, 16, 8, 8])
    x = g.op("Exp", "input", name="before")
    count = g.op("Cast", g.op("Size", x, name="count"), to=onnx.TensorProto.FLOAT)
    model = g.model(g.op("Sin", g.op("Mul", x, count), name="after"))
    exe = tvmconv.build(model, target="llvm")
    assert Counter(one.name for one in exe.report.kernels) == called(exe)
    nodes = [node for one in exe.report.kernels for node in one.nodes]
    assert nodes.index("before") < nodes.index("after")


def test_bytes_are_those_of_operands_and_results() -> None:
    g = Graph([1, 16, 8, 8])
    x = g.op("Add", g.op("Exp", "input", name="exp"), "input", name="add")
    report = tvmconv.inspect(g.model(x), target="llvm").plan
    (kernel,) = report.kernels
    assert kernel.nodes == ("exp", "add")
    # `input` is one operand of the one kernel.
    assert kernel.moved_bytes == 2 * 16 * 8 * 8 * 4
    assert report.cost_us == kernel.us > 0


@pytest.mark.slow
@pytest.mark.parametrize("network", ["light_densenet121", "light_shufflenet", "rapidocr_rec"])
def test_networks_of_the_zoo(network: str) -> None:
    exe = tvmconv.build(zoo.load(network), target="llvm", batch=1)
    assert Counter(one.name for one in exe.report.kernels) == called(exe)
