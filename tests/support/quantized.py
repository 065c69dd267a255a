"""Quantised ONNX models for the tests, and onnxruntime with nothing optimised to run them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime import quantization

from tvmconv.onnx.model import read
from tvmconv.onnx.quantized.inner_form import to_qdq

Array = NDArray[Any]
FLOAT, INT8, UINT8, INT32 = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT32,
)
MICROSOFT = "com.microsoft"


class Builder:
    """A model node by node, of any domain and element types."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset, self.rng = opset, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, element: int, shape: list[Any]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def const(self, value: Any, dtype: str = "float32") -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, operator: str, *inputs: str, name: str = "", outputs: int = 1, **more: Any) -> str:
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        made = [name, *(f"{name}.{at}" for at in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, list(inputs), made, name=name, **more))
        return name

    def model(self, *outputs: tuple[str, int]) -> onnx.ModelProto:
        """outputs: name and element type; shapes are those that onnxruntime infers."""
        infos = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs]
        graph = helper.make_graph(self.nodes, "test", self.inputs, infos, self.constants)
        domains = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=domains, ir_version=10)
        for value, known in zip(model.graph.output, _session(model).get_outputs(), strict=True):
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, known.shape))
        return model

    def wrong(self, *outputs: tuple[str, int, list[int]]) -> onnx.ModelProto:
        """A model that onnxruntime need not take; outputs with their shapes."""
        infos = [helper.make_tensor_value_info(*output) for output in outputs]
        graph = helper.make_graph(self.nodes, "test", self.inputs, infos, self.constants)
        domains = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=domains, ir_version=10)


def run(
    model: onnx.ModelProto, feeds: dict[str, Array], optimised: bool = False
) -> dict[str, Array]:
    """What onnxruntime gives, by name of output; with graph optimisations off by default."""
    exact = not _multiplies_bytes(model) or not saturates()
    session = _session(model, optimised) if exact else _exact_session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _multiplies_bytes(model: onnx.ModelProto) -> bool:
    """True for a model of which onnxruntime computes something by products of 8-bit integers."""
    products = {"ConvInteger", "MatMulInteger", "QGemm", "QLinearConv", "QLinearMatMul"}
    return bool(products & {node.op_type for node in model.graph.node})


@functools.cache
def saturates() -> bool:
    """True where onnxruntime's sums of unsigned by signed bytes saturate at 16 bits, as on an x86
    CPU without VNNI (its documentation, "Quantize ONNX Models", U8S8 on AVX2)."""
    b = Builder()
    x, weight = b.input("x", UINT8, [2, 64]), b.const(np.full((64, 32), 127), "int8")
    model = b.wrong((b.op("MatMulInteger", x, weight), INT32, [2, 32]))
    (y,) = _session(model).run(None, {"x": np.full((2, 64), 255, "uint8")})
    return bool(np.any(y != 64 * 255 * 127))


def _exact_session(model: onnx.ModelProto) -> Any:
    """A session whose weights are made unsigned, as sums of those do not saturate; of signed
    inputs, which it has no such kernels for, they do not either."""
    if any(node.domain == MICROSOFT and node.op_type == "QLinearConv" for node in model.graph.node):
        pytest.skip("this CPU has no VNNI, and onnxruntime no exact form of this QLinearConv")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return _session(model)


def _session(model: onnx.ModelProto, optimised: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def feeds(model: onnx.ModelProto, seed: int = 3) -> dict[str, Array]:
    """Random inputs; integers over their whole range."""
    rng = np.random.default_rng(seed)
    fed = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_value or 1 for dim in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            fed[value.name] = rng.integers(limits.min, limits.max + 1, shape, dtype)
        elif dtype == np.bool_:
            fed[value.name] = rng.random(shape) < 0.5
        else:
            fed[value.name] = rng.standard_normal(shape).astype(dtype)
    return fed


def counts(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs, with the domain of those that are not ONNX's."""
    return Counter(f"{node.domain}.{node.op_type}".strip(".") for node in model.graph.node)


def in_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the inner form, checked: what it says is all explicit, and onnx agrees."""
    pairs = to_qdq(read(model))
    onnx.checker.check_model(pairs, full_check=True)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in pairs.graph.initializer}
    dynamic = {
        name
        for node in pairs.graph.node
        if node.op_type == "DynamicQuantizeLinear"
        for name in node.output
    }
    for node in pairs.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert node.domain == ""
            assert [one.name for one in node.attribute] == ["axis"]
            _, scale, zero = node.input
            assert {scale, zero} <= values.keys() | dynamic
            if zero in values:
                assert values[zero].shape == values[scale].shape
                assert values[zero].ndim == 0 or values[zero].size > 1
    assert not [n for n in counts(pairs) if n.startswith("com.") or "Linear" in n[:7]]
    return pairs


def off(model: onnx.ModelProto, other: onnx.ModelProto, fed: dict[str, Array]) -> float:
    """The largest difference of any output of two models; of integers in steps."""
    one, two = run(model, fed), run(other, fed)
    assert {(k, v.dtype, v.shape) for k, v in one.items()} == {
        (k, v.dtype, v.shape) for k, v in two.items()
    }
    return max(
        float(np.abs(one[name].astype("float64") - two[name].astype("float64")).max())
        for name in one
    )


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, fed: Iterator[dict[str, Array]]) -> None:
        self._fed = fed

    def get_next(self) -> dict[str, Array] | None:
        return next(self._fed, None)


def static(model: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    """A float model as onnxruntime's `quantize_static` writes it, calibrated on noise."""
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, source)
    reader = _Reader(feeds(model, seed) for seed in range(3))
    quantization.quantize_static(source, target, reader, **options)
    return onnx.load(target)


def dynamic(model: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    """A float model as onnxruntime's `quantize_dynamic` writes it."""
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, source)
    quantization.quantize_dynamic(source, target, **options)
    return onnx.load(target)
