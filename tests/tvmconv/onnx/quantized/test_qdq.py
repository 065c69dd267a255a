"""QuantizeLinear and DequantizeLinear as people bring them, and what becomes of them.

Nothing is rounded anew, so results are equal, by onnxruntime with graph optimisations off; but for
one case of fp16, where onnxruntime itself adds in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.support.quantized import FLOAT, INT8, UINT8, Builder, counts, feeds, in_qdq, off, run
from tvmconv.onnx.model import read

FLOAT16 = onnx.TensorProto.FLOAT16
NAMES = {INT8: "int8", UINT8: "uint8"}


def convolution(
    opset: int,
    element: int = UINT8,
    per_channel: bool = False,
    float_weights: bool = False,
    bias: str = "int32",
    dtype: str = "float32",
) -> onnx.ModelProto:
    """A Conv between pairs. bias: none, int32, which has a scale, or float."""
    b = Builder(opset)
    real = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    b.input("x", real, [2, 3, 6, 6])
    name = NAMES[element]
    sx, zx = b.const(0.03, dtype), b.const(0 if element == INT8 else 128, name)
    k = (5,) if per_channel else ()
    scales = np.linspace(0.005, 0.01, 5) if per_channel else np.array(0.007)
    scale, zero = b.const(scales, dtype), b.const(np.zeros(k), "int8")
    axis = {"axis": 0} if per_channel else {}
    if float_weights:
        weights = b.const(b.rng.standard_normal((5, 3, 3, 3)), dtype)
        weights = b.op("QuantizeLinear", weights, scale, zero, **axis)
    else:
        weights = b.const(b.rng.integers(-127, 128, (5, 3, 3, 3)), "int8")
    parts = [b.op("DequantizeLinear", b.op("QuantizeLinear", "x", sx, zx), sx, zx)]
    parts.append(b.op("DequantizeLinear", weights, scale, zero, **axis))
    if bias == "float":
        parts.append(b.const(b.rng.standard_normal(5), dtype))
    if bias == "int32":
        whole = b.const(b.rng.integers(-4000, 4000, 5), "int32")
        product = b.const(np.float32(0.03) * scales.astype("float32"), dtype)
        parts.append(b.op("DequantizeLinear", whole, product, **axis))
    y = b.op("Conv", *parts, pads=[1, 1, 1, 1], name="conv")
    sy, zy = b.const(0.2, dtype), b.const(3, name)
    y = b.op("DequantizeLinear", b.op("QuantizeLinear", y, sy, zy), sy, zy)
    return b.model((y, real))


def weights_of(pairs: onnx.ModelProto, node: str = "Conv") -> dict[str, Any]:
    """Numbers, scale, zero point and axis of the weights of the one layer."""
    values = {one.name: numpy_helper.to_array(one) for one in pairs.graph.initializer}
    makers = {one.output[0]: one for one in pairs.graph.node}
    layer = next(one for one in pairs.graph.node if one.op_type == node)
    maker = makers[layer.input[1]]
    assert maker.op_type == "DequantizeLinear"
    numbers, scale, zero = (values[name] for name in maker.input)
    return {"numbers": numbers, "scale": scale, "zero": zero, "axis": maker.attribute[0].i}


@pytest.mark.parametrize("element", [INT8, UINT8], ids=["int8", "uint8"])
@pytest.mark.parametrize("float_weights", [False, True], ids=["int8 weights", "float weights"])
@pytest.mark.parametrize("bias", ["none", "int32", "float"])
@pytest.mark.parametrize(
    ("opset", "per_channel"), [(10, False), *((o, p) for o in (13, 19, 21, 23) for p in (0, 1))]
)
def test_every_opset(
    opset: int, per_channel: bool, bias: str, float_weights: bool, element: int
) -> None:
    model = convolution(opset, element, bool(per_channel), float_weights, bias)
    pairs = in_qdq(model)
    assert off(model, pairs, feeds(model)) == 0
    found = weights_of(pairs)
    assert found["numbers"].dtype == np.int8
    assert found["scale"].shape == found["zero"].shape == ((5,) if per_channel else ())
    assert found["axis"] == 0
    # The quantised weights' own QuantizeLinear has gone.
    assert counts(pairs)["QuantizeLinear"] == 2
    assert min(one.version for one in pairs.opset_import if not one.domain) >= 13


@pytest.mark.parametrize("opset", [19, 21, 23])
@pytest.mark.parametrize("float_weights", [False, True])
def test_scales_of_fp16(opset: int, float_weights: bool) -> None:
    model = convolution(opset, INT8, True, float_weights, "int32", "float16")
    pairs = in_qdq(model)
    # onnxruntime adds fp16 products in another order where weights are constants: one step.
    assert off(model, pairs, feeds(model)) <= (0.202 if float_weights else 0)
    assert weights_of(pairs)["scale"].dtype == np.float16


def test_no_zero_point_is_uint8_0() -> None:
    b = Builder(13)
    scale = b.const(0.02)
    q = b.op("QuantizeLinear", b.input("x", FLOAT, [2, 3]), scale)
    model = b.model((b.op("DequantizeLinear", q, scale), FLOAT), (q, UINT8))
    pairs = in_qdq(model)
    assert off(model, pairs, feeds(model)) == 0
    zeros = [one for one in pairs.graph.initializer if one.name.endswith("zero_point")]
    assert {one.data_type for one in zeros} == {UINT8}


def test_no_zero_point_of_a_vector_is_a_vector() -> None:
    b = Builder(13)
    x = b.input("x", INT8, [2, 3])
    model = b.model((b.op("DequantizeLinear", x, b.const([0.1, 0.2, 0.3]), axis=-1), FLOAT))
    pairs = in_qdq(model)
    assert off(model, pairs, feeds(model)) == 0
    assert pairs.graph.node[0].attribute[0].i == 1
    assert [list(one.dims) for one in pairs.graph.initializer] == [[3], [3]]


@pytest.mark.parametrize("element", [INT8, UINT8])
@pytest.mark.parametrize("opset", [21, 23])
def test_output_dtype_becomes_the_zero_points_type(opset: int, element: int) -> None:
    b = Builder(opset)
    x = b.input("x", FLOAT, [2, 3])
    model = b.model((b.op("QuantizeLinear", x, b.const(0.02), output_dtype=element), element))
    pairs = in_qdq(model)
    assert off(model, pairs, feeds(model)) == 0
    assert {one.data_type for one in pairs.graph.initializer} == {FLOAT, element}


def test_output_dtype_of_a_dequantizelinear_becomes_a_cast() -> None:
    b = Builder(23)
    x = b.input("x", INT8, [2, 3])
    y = b.op("DequantizeLinear", x, b.const(0.02), output_dtype=FLOAT16)
    model = b.wrong((y, FLOAT16, [2, 3]))
    pairs = in_qdq(model)
    assert counts(pairs) == {"DequantizeLinear": 1, "Cast": 1}
    fed = feeds(model)
    expected = (fed["x"] * np.float32(0.02)).astype("float16")
    np.testing.assert_array_equal(run(pairs, fed)[y], expected)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_scale_of_one_element_is_a_number(shape: tuple[int, ...]) -> None:
    b = Builder(13)
    x = b.input("x", FLOAT, [2, 3])
    scale, zero = b.const(np.full(shape, 0.02)), b.const(4, "uint8")
    model = b.model((b.op("QuantizeLinear", x, scale, zero, axis=1), UINT8))
    pairs = in_qdq(model)
    assert off(model, pairs, feeds(model)) == 0
    assert all(not one.dims for one in pairs.graph.initializer)


def test_scales_that_are_computed_from_constants() -> None:
    b = Builder(17)
    b.input("x", FLOAT, [2, 3])
    half = b.op("Constant", value_float=0.5)
    scale = b.op("Mul", b.op("Identity", half), b.const(0.1))
    zero = b.op("Cast", b.const(7, "int64"), to=INT8)
    q = b.op("QuantizeLinear", "x", scale, zero)
    model = b.model((b.op("DequantizeLinear", q, scale, zero), FLOAT))
    pairs = in_qdq(model)
    assert off(model, pairs, feeds(model)) == 0


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("after", [False, True], ids=["before the pair", "after the pair"])
def test_transposed_weights_are_transposed_once(after: bool, per_channel: bool) -> None:
    b = Builder(17)
    x = b.input("x", FLOAT, [4, 6])
    scale = b.const(np.linspace(0.01, 0.02, 3) if per_channel else 0.01)
    zero = b.const(np.zeros(3 if per_channel else ()), "int8")
    w = b.const(b.rng.standard_normal((3, 6)))
    if after:
        q = b.op("QuantizeLinear", w, scale, zero, axis=0)
        w = b.op("Transpose", b.op("DequantizeLinear", q, scale, zero, axis=0), perm=[1, 0])
    else:
        q = b.op("QuantizeLinear", b.op("Transpose", w, perm=[1, 0]), scale, zero, axis=1)
        w = b.op("DequantizeLinear", q, scale, zero, axis=1)
    model = b.model((b.op("MatMul", x, w), FLOAT))
    pairs = in_qdq(model)
    assert off(model, pairs, feeds(model)) == 0
    assert counts(pairs) == {"DequantizeLinear": 1, "MatMul": 1}
    found = weights_of(pairs, "MatMul")
    assert found["numbers"].shape == (6, 3)
    assert found["axis"] == int(per_channel)


def test_reshaped_weights_are_reshaped_once() -> None:
    b = Builder(17)
    x = b.input("x", FLOAT, [4, 6])
    w = b.op("DequantizeLinear", b.const(b.rng.integers(-9, 9, (2, 3, 3)), "int8"), b.const(0.1))
    w = b.op("Reshape", w, b.const([6, 3], "int64"))
    model = b.model((b.op("MatMul", x, w), FLOAT))
    pairs = in_qdq(model)
    assert off(model, pairs, feeds(model)) == 0
    assert counts(pairs) == {"DequantizeLinear": 1, "MatMul": 1}


def test_a_second_pair_of_the_same_scale_goes() -> None:
    b = Builder(17)
    x = b.input("x", FLOAT, [2, 3, 8])
    for _ in range(3):  # each with constants of its own
        scale, zero = b.const(0.013), b.const(77, "uint8")
        x = b.op("DequantizeLinear", b.op("QuantizeLinear", x, scale, zero), scale, zero)
    model = b.model((b.op("Relu", x), FLOAT))
    pairs = in_qdq(model)
    assert counts(pairs) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Relu": 1}
    assert off(model, pairs, feeds(model)) == 0


@pytest.mark.parametrize(
    ("scale", "zero"), [(0.02, 77), (0.013, 70)], ids=["another scale", "another zero point"]
)
def test_a_second_pair_that_differs_stays(scale: float, zero: int) -> None:
    b = Builder(17)
    x = b.input("x", FLOAT, [2, 3, 8])
    for s, z in ((0.013, 77), (scale, zero)):
        params = b.const(s), b.const(z, "uint8")
        x = b.op("DequantizeLinear", b.op("QuantizeLinear", x, *params), *params)
    model = b.model((x, FLOAT))
    pairs = in_qdq(model)
    assert counts(pairs) == {"QuantizeLinear": 2, "DequantizeLinear": 2}
    assert off(model, pairs, feeds(model)) == 0


@pytest.mark.parametrize("element", [INT8, UINT8])
@pytest.mark.parametrize("scale", [1e-30, 0.0137, 3.3, 1e30])
def test_what_was_dequantised_is_quantised_to_what_it_was(scale: float, element: int) -> None:
    # Why a second pair may go: for every number and zero point.
    limits = np.iinfo(NAMES[element])
    numbers = np.arange(limits.min, limits.max + 1, dtype="float32")
    zero = numbers[:, None]
    real = (numbers - zero) * np.float32(scale)
    np.testing.assert_array_equal(np.rint(real / np.float32(scale)) + zero, numbers + 0 * zero)


def test_dedicated_pairs_become_one() -> None:
    b = Builder(17)
    x = b.input("x", FLOAT, [2, 3, 8])
    read_by = []
    for _ in range(3):
        params = b.const(0.02), b.const(9, "int8")
        read_by.append(b.op("DequantizeLinear", b.op("QuantizeLinear", x, *params), *params))
    y = b.op("Add", b.op("Mul", read_by[0], read_by[1]), b.op("Relu", read_by[2]))
    model = b.model((y, FLOAT))
    pairs = in_qdq(model)
    assert counts(pairs)["QuantizeLinear"] == counts(pairs)["DequantizeLinear"] == 1
    assert off(model, pairs, feeds(model)) == 0


def test_an_output_keeps_its_name_though_it_is_there_twice() -> None:
    b = Builder(17)
    params = b.const(0.02), b.const(9, "int8")
    x = b.input("x", FLOAT, [2, 3])
    first, second = (b.op("QuantizeLinear", x, *params) for _ in range(2))
    again = b.op("QuantizeLinear", b.op("DequantizeLinear", first, *params), *params)
    model = b.model((first, INT8), (second, INT8), (again, INT8))
    assert off(model, in_qdq(model), feeds(model)) == 0


def test_graphs_inside_of_nodes_read_what_they_read() -> None:
    b = Builder(17)
    x = b.input("x", FLOAT, [2, 3])
    params = b.const(0.02), b.const(9, "int8")
    first, second = (
        b.op("DequantizeLinear", b.op("QuantizeLinear", x, *params), *params) for _ in range(2)
    )
    branches = []
    for name in (first, second):
        value = onnx.helper.make_tensor_value_info(f"{name}.in", FLOAT, [2, 3])
        node = onnx.helper.make_node("Neg", [name], [value.name])
        branches.append(onnx.helper.make_graph([node], "branch", [], [value]))
    chosen = b.op("Constant", value=numpy_helper.from_array(np.array(False)))
    y = b.op("If", chosen, then_branch=branches[0], else_branch=branches[1])
    model = b.model((y, FLOAT))
    assert off(model, in_qdq(model), feeds(model)) == 0


MOVED: dict[str, dict[str, Any]] = {
    "MaxPool": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "Transpose": {"perm": [0, 2, 3, 1]},
    "Flatten": {},
    "Squeeze": {},
    "DepthToSpace": {"blocksize": 2},
}


@pytest.mark.parametrize("operator", MOVED)
@pytest.mark.parametrize("element", [INT8, UINT8], ids=["int8", "uint8"])
def test_what_moves_quantised_numbers_is_between_pairs(operator: str, element: int) -> None:
    b = Builder(17)
    x = b.input("x", FLOAT, [1, 4, 6, 6])
    params = b.const(0.02), b.const(30, NAMES[element])
    q = b.op("QuantizeLinear", x, *params)
    moved = b.op(operator, q, **MOVED[operator])
    model = b.model((b.op("DequantizeLinear", moved, *params), FLOAT), (moved, element))
    pairs = in_qdq(model)
    assert off(model, pairs, feeds(model)) == 0
    node = next(one for one in pairs.graph.node if one.op_type == operator)
    makers = {name: one.op_type for one in pairs.graph.node for name in one.output}
    assert makers[node.input[0]] == "DequantizeLinear"
    assert node.name == operator.lower() + "_1"


@pytest.mark.parametrize("value", [None, 30, -7])
def test_padding_of_quantised_numbers_stands_for_a_number(value: int | None) -> None:
    b = Builder(17)
    x = b.input("x", FLOAT, [1, 2, 3, 3])
    params = b.const(0.02), b.const(30, "int8")
    q = b.op("QuantizeLinear", x, *params)
    pads = b.const([0, 0, 1, 1, 0, 0, 0, 2], "int64")
    padded = b.op("Pad", q, pads, *([] if value is None else [b.const(value, "int8")]))
    model = b.model((b.op("DequantizeLinear", padded, *params), FLOAT))
    qdq = in_qdq(model)
    assert off(model, qdq, feeds(model)) == 0
    assert [node.op_type for node in qdq.graph.node] == [
        *("QuantizeLinear", "DequantizeLinear", "Pad", "QuantizeLinear", "DequantizeLinear")
    ]


def test_a_split_of_quantised_numbers_is_between_pairs() -> None:
    b = Builder(17)
    x = b.input("x", FLOAT, [1, 4, 6])
    params = b.const(0.02), b.const(30, "uint8")
    split = b.op("Split", b.op("QuantizeLinear", x, *params), axis=1, outputs=2)
    ends = [b.op("DequantizeLinear", name, *params) for name in (split, f"{split}.1")]
    model = b.model(*((name, FLOAT) for name in ends))
    pairs = in_qdq(model)
    assert off(model, pairs, feeds(model)) == 0
    assert counts(pairs)["QuantizeLinear"] == 3


def test_initializers_that_are_inputs_too() -> None:
    model = convolution(13, UINT8, True)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    fed = {"x": feeds(model)["x"]}
    pairs = in_qdq(model)
    assert off(read(model), pairs, fed) == 0
    fed_by = {one.name for one in pairs.graph.input} - {one.name for one in pairs.graph.initializer}
    assert fed_by == {"x"}
