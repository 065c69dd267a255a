"""Networks of the zoo, small, as onnxruntime's quantiser writes them in each of its forms.

As pairs they give what they gave, by onnxruntime with graph optimisations off, and so they do after
`frontend.simplify`; all convolutions read int8 or uint8 weights and keep their names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantFormat, QuantType

import tvmconv
from benchmarks.zoo.generated import mobilenet_v2, resnet
from tests.support.models import residual_net
from tests.support.quantized import FLOAT, Builder, counts, dynamic, feeds, in_qdq, run, static
from tvmconv.onnx import frontend, kinds
from tvmconv.onnx import model as onnx_model
from tvmconv.onnx.supported import unsupported

SIDE = 32


def small(make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    """A network of the zoo for small images, its batch norms folded as quantisers want it."""
    model = make()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_value = dims[3].dim_value = SIDE
    return frontend.simplify(onnx_model.fix_shapes(onnx_model.read(model), 2))


NETWORKS = {
    "resnet": partial(small, partial(resnet, "resnet", (1, 1), False, 3)),
    "bottlenecks": partial(small, partial(resnet, "resnet", (1, 1), True, 3)),
}
QDQ, QOPERATOR = QuantFormat.QDQ, QuantFormat.QOperator
SIGNED = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
MIXED = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
UNSIGNED = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}
FORMS: dict[str, Callable[[onnx.ModelProto, Path], onnx.ModelProto]] = {
    "QDQ, asymmetric": partial(static, quant_format=QDQ, **MIXED),
    "QDQ, asymmetric int8": partial(static, quant_format=QDQ, **SIGNED),
    "QDQ, symmetric, per channel": partial(
        static,
        quant_format=QDQ,
        per_channel=True,
        extra_options={"ActivationSymmetric": True},
        **SIGNED,
    ),
    "QDQ, dedicated, float weights": partial(
        static,
        quant_format=QDQ,
        extra_options={"DedicatedQDQPair": True, "AddQDQPairToWeight": True},
        **MIXED,
    ),
    "QDQ, float bias": partial(
        static, quant_format=QDQ, extra_options={"QuantizeBias": False}, **MIXED
    ),
    "QOperator, asymmetric": partial(static, quant_format=QOPERATOR, **MIXED),
    "QOperator, per channel": partial(static, quant_format=QOPERATOR, per_channel=True, **SIGNED),
    "QOperator, uint8 weights": partial(static, quant_format=QOPERATOR, **UNSIGNED),
    "dynamic": partial(dynamic, weight_type=QuantType.QUInt8),
    "dynamic, per channel": partial(dynamic, weight_type=QuantType.QInt8, per_channel=True),
}


def bound(form: str) -> float:
    """How far the answers may be off, of the largest. A pair is what it was; an operator that
    rounds in another way (`test_rewrites`) is off by a step here and there, and so are those after
    it; a sum of more than 2**24 is rounded in fp32."""
    return 0.0 if form.startswith("QDQ") else 0.02 if form.startswith("QO") else 1e-5


@pytest.fixture(scope="module")
def floats() -> dict[str, onnx.ModelProto]:
    return {name: make() for name, make in NETWORKS.items()}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", FORMS)
def test_a_network_gives_what_it_gave(
    network: str, form: str, floats: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    given = FORMS[form](floats[network], tmp_path)
    fed = feeds(given)
    expected = run(given, fed)["output"]
    pairs = in_qdq(given)
    fixed = onnx_model.fix_shapes(pairs)
    onnx_model.name_nodes(fixed)
    simple = frontend.simplify(frontend.widen(fixed))
    for model in (pairs, simple):
        np.testing.assert_allclose(
            run(model, fed)["output"], expected, rtol=0, atol=bound(form) * np.abs(expected).max()
        )
    assert not unsupported(fixed)
    assert not unsupported(simple, folded=True)
    _all_quantised(given, simple)


def _all_quantised(given: onnx.ModelProto, simple: onnx.ModelProto) -> None:
    """Every convolution reads quantised weights and a quantised activation."""
    makers = {name: node for node in simple.graph.node for name in node.output}
    tensors = {one.name: one for one in simple.graph.initializer}
    layers = [node for node in simple.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert {node.name for node in layers} == {
        node.name
        for node in given.graph.node
        if node.op_type.removeprefix("QLinear").removesuffix("Integer")
        in ("Conv", "Gemm", "MatMul", "QGemm")
    }
    for node in layers:
        x, weights = (makers[name] for name in node.input[:2])
        assert x.op_type == weights.op_type == "DequantizeLinear"
        assert tensors[weights.input[0]].data_type in (
            onnx.TensorProto.INT8,
            onnx.TensorProto.UINT8,
        )
    assert counts(simple)["Cast"] == 0
    assert all(one.constant for one in kinds.layers(simple).values())
    assert kinds.convolutions(simple) == [node.name for node in layers]


def test_the_forms_of_one_network_end_alike(
    floats: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    ends = [
        counts(in_qdq(FORMS[form](floats["resnet"], tmp_path)))
        for form in ("QDQ, asymmetric", "QDQ, dedicated, float weights", "QOperator, asymmetric")
    ]
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("opset", [11, 21])
@pytest.mark.parametrize("form", ["QDQ, asymmetric", "QOperator, asymmetric"])
def test_a_network_of_another_opset(opset: int, form: str, tmp_path: Path) -> None:
    model = residual_net(2)
    model.opset_import[0].version = opset
    model.ir_version = 6 if opset < 13 else 10
    given = FORMS[form](model, tmp_path)
    fed = feeds(given)
    expected, got = (run(one, fed)["output"] for one in (given, in_qdq(given)))
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=bound(form) * float(np.abs(expected).max())
    )


@pytest.mark.parametrize(
    "form", ["QDQ, asymmetric", "QOperator, per channel", "dynamic, per channel"]
)
def test_a_quantised_network_builds_and_names_its_convolutions(form: str, tmp_path: Path) -> None:
    given = FORMS[form](residual_net(2), tmp_path)
    exe = tvmconv.build(given, "llvm", records=False)
    fed = feeds(given)
    expected = run(given, fed)["output"]
    np.testing.assert_allclose(
        exe.run(fed)["output"], expected, rtol=0, atol=0.02 * np.abs(expected).max()
    )
    assert len(exe.report.convolutions) == 5
    assert {one.name.removesuffix("_quant") for one in exe.report.convolutions} == {
        node.name for node in residual_net(2).graph.node if node.op_type == "Conv"
    }
    assert tvmconv.compare(given, exe, fed).relative_l2 is not None


@pytest.mark.parametrize("form", ["QDQ, asymmetric", "QOperator, asymmetric", "dynamic"])
def test_mobilenet(form: str, tmp_path: Path) -> None:
    floats = {"mobilenet_v2": small(partial(mobilenet_v2, 2))}
    test_a_network_gives_what_it_gave("mobilenet_v2", form, floats, tmp_path)


def test_equal_convolutions_of_equal_weights_are_one() -> None:
    b = Builder()
    params = b.const(0.03), b.const(0, "int8")
    x = b.op("QuantizeLinear", b.input("x", FLOAT, [1, 16, 6, 6]), *params)
    x = b.op("DequantizeLinear", x, *params)
    numbers, scale = b.const(b.rng.integers(-127, 128, (16, 16, 1, 1)), "int8"), b.const(0.01)
    one, other = (b.op("Conv", x, b.op("DequantizeLinear", numbers, scale)) for _ in range(2))
    model = b.model((b.op("Add", one, b.op("Relu", other)), FLOAT))
    report = tvmconv.build(model, "llvm", records=False).report
    assert len(report.convs) == 1
    fates = {node.name: node.fate for node in report.operators}
    assert sorted(fates[name].startswith("merged with an equal one") for name in (one, other)) == [
        False,
        True,
    ]
