"""The networks of the zoo, built for llvm, on real pictures, against onnxruntime in fp32."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import tvmconv
from benchmarks.zoo import zoo
from tests.support.fetched import downloaded

#: Relative l2 error of the output that computing in fp16 may cost a whole network.
BOUND = 5e-3
#: And any network there is.
ZOO_BOUND = 1e-2


@pytest.mark.parametrize(
    ("name", "tensorized", "depthwise"),
    [
        # `test_trained` has the layers of both.
        pytest.param("resnet18", 20, 0, marks=pytest.mark.slow),
        pytest.param("resnet50", 53, 0, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", 35, 17, marks=pytest.mark.slow),
    ],
)
def test_generated(name: str, tensorized: int, depthwise: int) -> None:
    feeds, model = downloaded(lambda: zoo.feeds(name, 2)), zoo.load(name)
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
    feeds = downloaded(lambda: zoo.feeds("opennsfw", 2))
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


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_every_network_is_right(name: str) -> None:
    model = downloaded(lambda: zoo.load(name))
    feeds = downloaded(lambda: zoo.feeds(name, 1))
    exe = tvmconv.build(model, target="llvm", batch=1)
    check_memory(exe)
    for conv in exe.report.convolutions:
        workloads = [json.loads(text) for text in conv.workloads]
        many = [w["groups"] == 1 or w["c"] // w["groups"] >= 8 for w in workloads]
        assert conv.tensor_core or not all(many), conv
    report = tvmconv.compare(model, exe, feeds)
    assert report.passed(ZOO_BOUND), str(report)
    assert not any(output.note for output in report.outputs), str(report)


@pytest.mark.slow
def test_efficientnet_lite0_recognises_as_many_photos_in_fp16_as_in_fp32() -> None:
    model = downloaded(lambda: zoo.load("efficientnet_lite0"))
    pictures, classes = zip(*zoo.labelled().values(), strict=True)
    feeds = zoo.feeds("efficientnet_lite0", 20, lambda count: np.stack(pictures)[:count])
    exe = tvmconv.build(model, target="llvm", batch=20)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (single,) = session.run(None, feeds)
    (half,) = exe.run(feeds).values()
    right = [(np.asarray(logits).argmax(axis=1) == classes).sum() for logits in (single, half)]
    assert right[0] == 18
    assert right[1] >= right[0]
