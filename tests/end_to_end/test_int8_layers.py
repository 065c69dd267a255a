"""Each layer of quantised networks by itself, fed what onnxruntime feeds it: step for step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx.utils import Extractor

import tvmconv
from benchmarks.zoo import zoo
from tests.support.quantized import run
from tvmconv.onnx.model import fix_shapes, read

NETWORKS = ("resnet18", "mobilenet_v2")
SIZE = 64


def quantised(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A network of the zoo on small images, and one to feed it."""
    model = zoo.load(name)
    (fed,) = model.graph.input
    shape = {fed.name: [1, 3, SIZE, SIZE]}
    rng = np.random.default_rng(3)
    feeds = [{fed.name: rng.standard_normal(shape[fed.name]).astype(np.float32)} for _ in range(3)]
    model = fix_shapes(read(model), shapes=shape)
    return tvmconv.quantize(model, feeds, method="minmax").proto, feeds[0]


def parts(model: onnx.ModelProto) -> Iterator[tuple[list[str], str]]:
    """The 8-bit tensors that each 8-bit tensor is computed from, by one layer or pool."""
    makers = {output: node for node in model.graph.node for output in node.output}
    constants = {one.name for one in model.graph.initializer}
    eight = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for name in sorted(eight):
        found, waiting = set(), [makers[name].input[0]]
        while waiting:
            one = waiting.pop()
            if one in eight or one not in makers:
                found |= {one} - constants - {""}
            else:
                waiting += makers[one].input
        yield sorted(found), name


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_within_a_step(name: str) -> None:
    model, feed = quantised(name)
    model = onnx.shape_inference.infer_shapes(model)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    tensors = [output for _, output in parts(model)]
    whole.graph.output.extend(onnx.ValueInfoProto(name=one) for one in tensors)
    values = run(whole, feed) | feed
    cut, steps, whole_numbers = Extractor(model), {}, []
    for given, output in parts(model):
        part = cut.extract_model(given, [output])
        fed = {one: values[one] for one in given}
        net = tvmconv.build(part, target="llvm", shapes=_shapes(fed))
        (got,) = net.run(fed).values()
        off = np.abs(got.astype(int) - values[output].astype(int))
        steps[output] = (int(off.max()), float((off > 0).mean()))
        # A layer that `quantize` leaves in floats rounds them to fp16.
        if all(conv.in_int8 for conv in net.report.convs):
            whole_numbers.append(output)
    assert len(whole_numbers) > 12
    wrong = {
        output: (most, share)
        for output, (most, share) in steps.items()
        if most > 1 or share > (0.01 if output in whole_numbers else 0.05)
    }
    assert wrong == {}


def _shapes(fed: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in fed.items()}
