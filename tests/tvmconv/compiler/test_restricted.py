"""Builds through some of the families, in NHWC16n16c, and with layers that are pinned."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

import tvmconv
from benchmarks.zoo import zoo
from schedules.families.depthwise.config import DepthwiseConfig
from schedules.families.wmma.config import WmmaConfig
from tests.support import networks, sass
from tests.support.models import Graph, random_feed, residual_net
from tvmconv.compiler import cubins
from tvmconv.errors import ConfigError, FamilyError, TvmconvError

#: Tensor expressions and WMMA alone; the second for products of matrices, which are not packed.
WMMA = ("wmma_packed", "wmma_nhwc")
#: The families that each network takes at least, and how many of its convolutions are packed then.
#: MobileNetV2's depthwise convolutions write NHWC, and 24 channels are no whole blocks.
LEAST = {
    "residual_net": (WMMA, 5, 5),
    "resnet18": (WMMA, 20, 20),
    "resnet50": (WMMA, 53, 53),
    "mobilenet_v2": ((*WMMA, "direct"), 33, 52),
}
#: Relative l2 error of 53 layers in fp16 on small images: 5.3e-3, in NHWC as packed.
BOUNDS = {"resnet50": 8e-3}
SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "resnet50", "mobilenet_v2")
]

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
needs_cuobjdump = pytest.mark.skipif(not sass.available(), reason="needs cuobjdump and nvdisasm")


def smaller(name: str, side: int = 32) -> onnx.ModelProto:
    """A network of the zoo for images of so many rows and columns."""
    model = zoo.load(name)
    shape = model.graph.input[0].type.tensor_type.shape
    for axis in (2, 3):
        shape.dim[axis].dim_value = side
    return model


def require_packed(name: str, report: Any) -> None:
    families, packed, convolutions = LEAST[name]
    assert {conv.family for conv in report.convs} == set(families)
    assert len(report.convolutions) == convolutions
    assert sum(conv.out_layout == "NHWC16n16c" for conv in report.convolutions) == packed


# --- families and layout --------------------------------------------------------------------
@pytest.mark.parametrize("name", ["residual_net", *SLOW])
def test_a_network_packed_and_by_wmma_alone_is_right(name: str) -> None:
    model = residual_net("batch") if name == "residual_net" else smaller(name)
    exe = tvmconv.build(model, "llvm", batch=16, families=LEAST[name][0], layout="packed")
    require_packed(name, exe.report)
    compared = tvmconv.compare(model, exe)
    assert compared.passed(BOUNDS.get(name, 5e-3)), str(compared)


@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize("arch", ["sm_80", pytest.param("sm_90a", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["residual_net", *SLOW])
def test_a_network_packed_and_by_wmma_alone_for_a_gpu(name: str, arch: str, tmp_path: Path) -> None:
    families = LEAST[name][0]
    model = residual_net("batch") if name == "residual_net" else zoo.load(name)
    exe = tvmconv.build(model, "cuda", arch=arch, batch=16, families=families, layout="packed")
    require_packed(name, exe.report)
    path = tmp_path / "code.so"
    path.write_bytes(exe.code)
    cubins.require_cubin(path, exe.arch)
    code = {one: text for one, text in sass.kernels(path).items() if "conv_wmma" in one}
    assert len(code) == len(
        {workload for conv in exe.report.convs if conv.tensor_core for workload in conv.workloads}
    )
    assert all("HMMA" in text for text in code.values())


@pytest.mark.parametrize("target", ["llvm", "cuda"])
def test_what_is_planned_of_mobilenet_v2(target: str) -> None:
    name = "mobilenet_v2"
    arch = {"llvm": None, "cuda": "sm_90a"}[target]
    report = tvmconv.inspect(
        smaller(name), target, arch=arch, batch=16, families=LEAST[name][0], layout="packed"
    )
    require_packed(name, report.plan)


def test_packed_where_nothing_else_is_allowed() -> None:
    """No `layout`: the families alone leave no other, but for the classifier."""
    model = residual_net("batch")
    report = tvmconv.inspect(model, "llvm", batch=16, families=["wmma_packed", "direct"]).plan
    everything = tvmconv.inspect(model, "llvm", batch=16).plan
    assert Counter(conv.out_layout for conv in everything.convs) == {"NHWC": 6}
    assert {conv.family for conv in report.convs} <= {"wmma_packed", "direct"}


def test_other_readers_of_what_is_packed_get_a_copy() -> None:
    """A pool and the output read what only `wmma_packed` may write."""
    g = Graph([16, 16, 8, 8])
    x = g.conv("input", 16, 32, name="one")
    y = g.op("Relu", g.conv(g.op("MaxPool", x, kernel_shape=[2, 2]), 32, 16, name="two"))
    model = g.model(y)
    exe = tvmconv.build(model, "llvm", families="wmma_packed")
    assert {conv.family for conv in exe.report.convs} == {"wmma_packed"}
    assert tvmconv.compare(model, exe, random_feed((16, 16, 8, 8))).passed(2e-3)


def test_what_no_family_computes_is_named_with_the_reasons() -> None:
    g = Graph([16, 16, 8, 8])
    wide = g.conv("input", 16, 32, name="wide")
    model = g.model(g.conv(wide, 32, 32, group=32, name="deep"))
    with pytest.raises(FamilyError, match="conv 'deep', 16x8x8x32 -> 32, 3x3, 32 groups") as told:
        tvmconv.build(model, "llvm", families=["wmma_packed"])
    assert "wmma_packed: depthwise" in told.value.note
    assert "groups and transposed convolutions write NHWC" in told.value.note
    assert "direct" in told.value.hint
    with pytest.raises(FamilyError, match="conv 'wide'") as told:
        tvmconv.inspect(
            model, "llvm", shapes={"input": (3, 16, 8, 8)}, families=["wmma_packed", "depthwise"]
        )
    assert "a batch of 3 is no multiple of 16" in told.value.note


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"families": ["wmma"]}, "there is no family 'wmma'"),
        ({"families": []}, "the list of families is empty"),
        ({"layout": "NCHW16c"}, "there is no layout 'NCHW16c'"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], said: str) -> None:
    for function in (tvmconv.build, tvmconv.inspect, tvmconv.tune):
        with pytest.raises(TvmconvError, match=said):
            function(networks.small(), "llvm", batch=1, **options)


# --- pinned layers --------------------------------------------------------------------------
@pytest.mark.parametrize(
    "given",
    [
        WmmaConfig(1, 1, 1, 1),
        {"warps_m": 1, "warps_k": 1, "fragments_m": 1, "fragments_k": 1},
        '{"family": "wmma_nhwc", "config": {"warps_m":1,"warps_k":1,"fragments_m":1,'
        '"fragments_k":1}}',
    ],
    ids=["object", "fields", "JSON"],
)
def test_a_pinned_layer_has_that_configuration_and_the_others_their_own(given: Any) -> None:
    model = networks.small()
    before = tvmconv.inspect(model, "llvm", batch=1, records=False).plan
    exe = tvmconv.build(model, "llvm", batch=1, configs={"first": given}, records=False)
    first, second = exe.report.convs
    assert (first.chosen_by, second.chosen_by) == ("pinned", "model")
    assert first.why_family == "set by hand"
    assert "pinned" in str(exe.report)
    assert first.config == str(WmmaConfig(1, 1, 1, 1)) != before.convs[0].config
    assert second.config == before.convs[1].config
    assert tvmconv.compare(model, exe).passed(5e-3)


def test_a_pin_decides_on_the_family_and_the_layout() -> None:
    model = residual_net("batch")
    plain = tvmconv.inspect(model, "llvm", batch=16, records=False).plan
    name = plain.convolutions[1].name
    pinned = tvmconv.inspect(
        model, "llvm", batch=16, configs={name: {"family": "wmma_packed", "config": {}}}
    ).plan
    conv = next(one for one in pinned.convs if one.name == name)
    assert (conv.family, conv.out_layout) == ("wmma_packed", "NHWC16n16c")


def test_a_pin_comes_before_a_record(tmp_path: Path) -> None:
    path, model = tmp_path / "r.jsonl", networks.small()
    tvmconv.set_record(model, "first", {"warps_m": 1}, "llvm", batch=1, records=path)
    pin = WmmaConfig(1, 1, 1, 1)
    plan = tvmconv.inspect(model, "llvm", batch=1, records=path, configs={"first": pin}).plan
    assert plan.convs[0].config == str(pin)


def test_a_pin_fits_every_bucket_or_is_refused() -> None:
    model = networks.small()
    exe = tvmconv.build(model, "llvm", batch=[1, 2], configs={"first": WmmaConfig(1, 1, 1, 1)})
    reports = (*exe.report.smaller, exe.report)
    assert {report.convs[0].config for report in reports} == {str(WmmaConfig(1, 1, 1, 1))}
    packed = {"first": {"family": "wmma_packed", "config": {}}}
    tvmconv.inspect(model, "llvm", batch=[16], configs=packed)
    with pytest.raises(ConfigError, match="conv 'first'"):
        tvmconv.inspect(model, "llvm", batch=[1, 16], configs=packed)


def test_a_layer_that_is_not_there_is_refused_with_its_neighbours() -> None:
    with pytest.raises(ConfigError, match="there is no convolution 'frist'") as told:
        tvmconv.build(networks.small(), "llvm", batch=1, configs={"frist": WmmaConfig()})
    assert told.value.hint.startswith("similar names: first")


def test_a_configuration_that_does_not_fit_is_refused_by_its_layer() -> None:
    with pytest.raises(ConfigError, match="conv 'first': the configuration") as told:
        tvmconv.build(
            networks.small(), "cuda", arch="sm_90", batch=1, configs={"first": WmmaConfig(chunk=0)}
        )
    assert "wmma_nhwc: " in told.value.note


def pair() -> onnx.ModelProto:
    g = Graph([2, 16, 9, 7])
    deep = g.op("Relu", g.conv("input", 16, 16, group=16, name="deep"))
    return g.model(g.conv(deep, 16, 16, 1, name="project"))


PAIR = {"family": "depthwise_projection", "config": {"rows": 16}}


def test_a_pin_decides_whether_two_convolutions_are_one_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(always: str, pins: Any) -> dict[str, str]:
        monkeypatch.setenv("TVMCONV_PAIR", always)
        plan = tvmconv.inspect(pair(), "cuda", arch="sm_90a", records=False, configs=pins).plan
        return {conv.name: conv.family for conv in plan.convs}

    together = {"deep": "depthwise_projection", "project": "depthwise_projection"}
    assert found("1", {}) == together
    assert found("1", {"deep": DepthwiseConfig()})["deep"] == "depthwise"
    assert found("1", {"project": WmmaConfig(1, 1, 1, 1, 1)})["project"] == "wmma_nhwc"
    assert found("0", {}) != together
    assert found("0", {"project": PAIR}) == together


def test_simulated_kernels_have_no_configurations() -> None:
    with pytest.raises(TvmconvError, match="no configurations"):
        tvmconv.build(networks.small(), "hmma-sim", batch=1, configs={"first": WmmaConfig()})
