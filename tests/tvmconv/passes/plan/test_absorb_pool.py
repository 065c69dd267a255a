"""Max pools that become a part of the kernel before them, and that results stay what they were."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from schedules.choose import Policy
from schedules.conv.activations import Activation
from schedules.conv.max_pool import MaxPool
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.families.few_channels.family import FewChannelsFamily
from schedules.machine.cost import Cost
from schedules.machine.hardware import CUDA_ARCHS
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.support import kernels
from tests.support.models import Graph
from tvmconv.onnx import frontend, kinds
from tvmconv.onnx import model as onnx_model
from tvmconv.passes import pipeline
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.plan import plan
from tvmconv.passes.regions.anchors import anchors
from tvmconv.passes.regions.regions import find_regions

HALF: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2]}
FUSED = "bias + relu + max pool 3x3/2"


def stem(size: int = 64, k: int = 16, **pool: Any) -> tuple[Graph, str, str]:
    """A graph that begins with a convolution of 3 channels and a pool; both of their names."""
    g = Graph([2, 3, size, size])
    y = g.op("Relu", g.conv("input", 3, k, 7, strides=[2, 2], pads=[3] * 4, name="stem"))
    return g, y, g.op("MaxPool", y, name="pool", **{**HALF, "pads": [1] * 4, **pool})


def inspected(model: onnx.ModelProto, batch: int = 128) -> tvmconv.CapabilityReport:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return tvmconv.inspect(model, target="cuda", arch="sm_90a")


def epilogue(model: onnx.ModelProto, batch: int = 128) -> str:
    return next(one.epilogue for one in inspected(model, batch).convs if one.name == "stem")


# ---------------------------------------------------------------- what is absorbed


def test_a_stem_and_its_pool_are_one_kernel() -> None:
    g, _, x = stem(224, 64)
    report = inspected(g.model(g.conv(x, 64, 64, name="next")))
    conv = next(one for one in report.convs if one.name == "stem")
    assert (conv.family, conv.epilogue) == ("few_channels", FUSED)
    fates = {one.name: one.fate for one in report.plan.operators}
    assert fates["pool"] == "in the kernel of a convolution: stem"
    # What it writes at least, is of the pool's size.
    assert conv.moved_bytes == 2 * (128 * (224 * 224 * 3 + 56 * 56 * 64) + 64 * 3 * 49)
    (workload,) = conv.workloads
    assert json.loads(workload)["epilogue"]["pool"]["size"] == [56, 56]


@pytest.mark.slow
@pytest.mark.parametrize(
    "pool",
    [{"pads": [0] * 4}, {"pads": [0] * 4, "ceil_mode": 1}, {"pads": [0, 0, 1, 1]}],
    ids=["not padded", "rounded up", "padded at the end"],
)
def test_other_pools_of_stems(pool: dict[str, Any]) -> None:
    assert epilogue(stem(224, 64, **pool)[0].model("pool")) == FUSED


@pytest.mark.parametrize(
    "pool",
    [
        {"kernel_shape": [2, 2], "pads": [0] * 4},
        {"strides": [1, 1]},
        {"dilations": [2, 2], "pads": [2] * 4},
    ],
    ids=["2x2", "stride 1", "dilation"],
)
def test_declined_a_pool_that_no_family_has(pool: dict[str, Any]) -> None:
    assert epilogue(stem(224, 64, **pool)[0].model("pool")) == "bias + relu"


def test_declined_where_another_reads_what_the_pool_reads() -> None:
    g, y, x = stem(224, 64)
    assert epilogue(g.model(x, g.conv(y, 64, 16, name="other"))) == "bias + relu"
    assert epilogue(g.model(x, y)) == "bias + relu"


def test_declined_many_channels() -> None:
    g = Graph([1, 32, 56, 56])
    y = g.op("Relu", g.conv("input", 32, 64, name="stem"))
    assert epilogue(g.model(g.op("MaxPool", y, pads=[1] * 4, **HALF))) == "bias + relu"


def test_declined_on_a_cpu_and_on_gpus_of_no_such_instruction() -> None:
    model = stem()[0].model("pool")
    for target, arch in (("llvm", None), ("cuda", "sm_75")):
        (conv,) = tvmconv.inspect(model, target=target, arch=arch).convs
        assert conv.epilogue == "bias + relu"


def test_declined_for_one_image() -> None:
    """There the tiles that are computed for their last row alone are half of all."""
    model = stem(224, 64)[0].model("pool")
    assert [epilogue(model, n) for n in (1, 32)] == ["bias + relu", FUSED]


def test_declined_where_it_would_take_longer() -> None:
    """The estimate decides: here it takes a pool for the dearest thing there is, or for free."""
    simple = frontend.simplify(onnx_model.fix_shapes(onnx_model.read(stem()[0].model("pool"))))
    mod = pipeline.run(frontend.to_relax(simple), pipeline.GRAPH_PASSES, "test")
    named = list(zip(anchors(mod), kinds.convolutions(simple), strict=True))
    mod = pipeline.run(mod, pipeline.TIDY_PASSES, "test")
    hardware = next(one for one in CUDA_ARCHS if one.name == "sm_90a")
    for us, absorbed in ((1000.0, False), (0.1, True)):

        def estimate(w: Any, *_: Any, us: float = us) -> Cost:
            return Cost(10.0 + us * (w.epilogue.pool is not None) - 9.0, "DRAM")

        chooser = Chooser(hardware, Policy(estimate=estimate))
        (planned,) = plan(mod, find_regions(mod, named), chooser).values()
        assert (planned.region.pool is not None) is absorbed


# ---------------------------------------------------------------- what it computes


@pytest.mark.parametrize("pads", [[1] * 4, [0] * 4])
def test_the_pool_is_in_the_kernel_and_nowhere_else(pads: list[int]) -> None:
    g, _, x = stem(224, 64, pads=pads)
    model = g.model(g.conv(x, 64, 24, name="next"))
    report = inspected(model).plan
    assert [conv.epilogue for conv in report.convs] == [FUSED, "bias"]
    fates = {one.name: one.fate for one in report.operators}
    assert fates["pool"] == "in the kernel of a convolution: stem"
    assert not any("pool" in kernel.name for kernel in report.kernels)


@pytest.mark.skipif(not emulator.available(), reason="no g++")
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_the_same_bits_as_two_kernels(activation: str) -> None:
    """The result is pooled after it is rounded, as a kernel of its own would pool it."""
    sm_90a = next(one for one in CUDA_ARCHS if one.name == "sm_90a")
    pool = MaxPool((3, 3), (2, 2), (1, 1), (10, 13))
    apart = Epilogue(bias=True, activation=Activation(activation))
    w = ConvWorkload(2, 37, 50, 3, 24, 5, 5, (2, 2), (2, 2, 2, 2), epilogue=apart)
    both = replace(w, epilogue=replace(apart, pool=pool))
    operands, family = Tensors.random(w), FewChannelsFamily()
    one, two = (
        kernels.run(family, x, family.match(x, sm_90a).config, sm_90a, operands, emulator.run)
        for x in (both, w)
    )
    np.testing.assert_array_equal(one, pool.apply(two))
