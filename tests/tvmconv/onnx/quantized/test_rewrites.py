"""Every quantised operator of the table: its rewrite gives what it gives, by onnxruntime with graph
optimisations off.

Sums of whole numbers are equal. Where an operator ends with rounding, onnxruntime's kernel rounds
``sum * (s_x s_w / s_y)`` or a table's entry, the pair rounds ``(sum s_x s_w) / s_y``: a result next
to a half may go to either side, so one step is allowed there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.quantized import (
    FLOAT,
    INT8,
    INT32,
    MICROSOFT,
    UINT8,
    Builder,
    counts,
    feeds,
    in_qdq,
    off,
    run,
)
from tvmconv.onnx.model import read
from tvmconv.onnx.quantized.rewrites import REWRITES, find

Case = Callable[[], onnx.ModelProto]
NAMES = {INT8: "int8", UINT8: "uint8"}
#: Zero points of asymmetric activations.
ZERO = {INT8: -7, UINT8: 131}


def conv(
    domain: str = "", x: int = UINT8, w: int = INT8, per: str = "tensor", bias: bool = True
) -> Case:
    """A grouped QLinearConv with padding, which is of the zero point. per: tensor or channel."""

    def made() -> onnx.ModelProto:
        b = Builder()
        b.input("x", x, [2, 4, 6, 5])
        k, shape = 6, ()
        if per == "channel":
            shape = (k,)
        limits = np.iinfo(NAMES[w])
        weight = b.const(b.rng.integers(limits.min, limits.max + 1, (k, 2, 3, 3)), NAMES[w])
        zero = np.full(shape, 0 if w == INT8 else 120)
        scale = b.const(b.rng.uniform(0.001, 0.01, shape))
        parts = ["x", b.const(0.02), b.const(ZERO[x], NAMES[x]), weight, scale]
        parts += [b.const(zero, NAMES[w]), b.const(0.3), b.const(ZERO[x] + 3, NAMES[x])]
        if bias:
            parts.append(b.const(b.rng.integers(-9000, 9000, k), "int32"))
        given = {"pads": [1, 2, 0, 1], "strides": [1, 2], "group": 2}
        return b.model((b.op("QLinearConv", *parts, domain=domain, **given), x))

    return made


def matmul(per: str = "tensor", a: int = UINT8, w: int = INT8) -> Case:
    """QLinearMatMul. per: tensor, or vector, of rows of a and columns of b."""

    def made() -> onnx.ModelProto:
        b = Builder()
        b.input("a", a, [5, 16])
        weight = b.const(b.rng.integers(-100, 100, (16, 7)) + (100 if w == UINT8 else 0), NAMES[w])
        rows, columns = ((5,), (7,)) if per == "vector" else ((), ())
        parts = ["a", b.const(b.rng.uniform(0.01, 0.02, rows))]
        parts += [b.const(np.full(rows, ZERO[a]), NAMES[a]), weight]
        parts += [b.const(b.rng.uniform(0.01, 0.02, columns)), b.const(np.zeros(columns), NAMES[w])]
        parts += [b.const(0.3), b.const(ZERO[a], NAMES[a])]
        return b.model((b.op("QLinearMatMul", *parts), a))

    return made


def qgemm(
    per: str = "tensor", c: str = "vector", a: int = UINT8, real: bool = False, **given: Any
) -> Case:
    """QGemm. c: no, number, vector or matrix; real: leaves the result's scale out."""

    def made() -> onnx.ModelProto:
        b = Builder()
        b.input("a", a, [16, 5] if given.get("transA") else [5, 16])
        shape = (7, 16) if given.get("transB") else (16, 7)
        columns = (7,) if per == "channel" else ()
        parts = ["a", b.const(0.02), b.const(ZERO[a], NAMES[a])]
        parts += [b.const(b.rng.integers(-120, 120, shape), "int8")]
        parts += [b.const(b.rng.uniform(0.01, 0.02, columns)), b.const(np.zeros(columns), "int8")]
        sizes = {"number": (1,), "vector": (7,), "matrix": (5, 7)}
        parts.append(b.const(b.rng.integers(-5000, 5000, sizes[c]), "int32") if c in sizes else "")
        if not real:
            parts += [b.const(0.4), b.const(ZERO[a], NAMES[a])]
        return b.model((b.op("QGemm", *parts, domain=MICROSOFT, **given), FLOAT if real else a))

    return made


def integer(operator: str, zeros: str = "numbers", cast: str = "float", w: int = INT8) -> Case:
    """ConvInteger or MatMulInteger. zeros: none, numbers or vectors; cast: of the sums, or none."""

    def made() -> onnx.ModelProto:
        b = Builder()
        x, shape, channels = [2, 3, 6, 6], (4, 3, 3, 3), (4,)
        if operator == "MatMulInteger":
            x, shape, channels = [5, 32], (32, 7), (7,)
        b.input("x", UINT8, x)
        limits = np.iinfo(NAMES[w])
        weight = b.const(b.rng.integers(limits.min, limits.max + 1, shape), NAMES[w])
        parts = ["x", weight]
        if zeros != "none":
            each = channels if zeros == "vectors" else ()
            parts += [b.const(121, "uint8"), b.const(np.full(each, 3), NAMES[w])]
        given = {"pads": [1, 1, 1, 1]} if operator == "ConvInteger" else {}
        sums = b.op(operator, *parts, **given)
        if cast == "float":
            return b.model((b.op("Cast", sums, to=FLOAT), FLOAT))
        if cast == "none":
            return b.model((sums, INT32))
        real = b.op("Cast", sums, to=FLOAT)  # and another that reads the sums
        return b.model((real, FLOAT), (b.op("Neg", sums), INT32))

    return made


def unary(operator: str, element: int = UINT8, **given: Any) -> Case:
    """An operator of one tensor."""

    def made() -> onnx.ModelProto:
        b = Builder()
        b.input("x", element, [2, 3, 8, 8])
        zero = b.const(ZERO[element], NAMES[element])
        parts = ["x", b.const(0.05), zero, b.const(0.03), zero]
        return b.model((b.op(operator, *parts, domain=MICROSOFT, **given), element))

    return made


def softmax(opset: int, axis: int, element: int = UINT8) -> Case:
    def made() -> onnx.ModelProto:
        b = Builder()
        b.input("x", element, [2, 3, 4])
        low = b.const(-128 if element == INT8 else 0, NAMES[element])
        parts = ["x", b.const(0.05), b.const(ZERO[element], NAMES[element]), b.const(1 / 256), low]
        given = {"opset": opset, "axis": axis}
        return b.model((b.op("QLinearSoftmax", *parts, domain=MICROSOFT, **given), element))

    return made


def binary(operator: str, element: int = UINT8, constant: bool = False) -> Case:
    """An operator of two tensors that broadcast. constant: the second is an initializer."""

    def made() -> onnx.ModelProto:
        b = Builder()
        name = NAMES[element]
        limits = np.iinfo(name)
        x = b.input("x", element, [2, 3, 4])
        other = b.rng.integers(limits.min, limits.max + 1, (3, 1))
        y = b.const(other, name) if constant else b.input("y", element, [3, 1])
        zero = b.const(ZERO[element], name)
        parts = [x, b.const(0.05), zero, y, b.const(0.021), zero, b.const(0.07), zero]
        return b.model((b.op(operator, *parts, domain=MICROSOFT), element))

    return made


def concat(element: int = UINT8) -> Case:
    def made() -> onnx.ModelProto:
        b = Builder()
        name = NAMES[element]
        x, y = b.input("x", element, [2, 3, 4]), b.input("y", element, [2, 2, 4])
        zero = b.const(ZERO[element], name)
        parts = [b.const(0.05), zero, x, b.const(0.05), zero]
        parts += [y, b.const(0.031), b.const(ZERO[element] - 9, name)]
        return b.model((b.op("QLinearConcat", *parts, domain=MICROSOFT, axis=1), element))

    return made


def where() -> onnx.ModelProto:
    b = Builder()
    b.input("condition", onnx.TensorProto.BOOL, [2, 3])
    x, y = b.input("x", UINT8, [2, 3]), b.input("y", UINT8, [2, 3])
    zero = b.const(128, "uint8")
    parts = ["condition", x, b.const(0.05), zero, y, b.const(0.031), zero, b.const(0.04), zero]
    return b.model((b.op("QLinearWhere", *parts, domain=MICROSOFT), UINT8))


def quantize(shape: tuple[int, ...] = (), axis: int | None = None) -> Case:
    def made() -> onnx.ModelProto:
        b = Builder()
        b.input("x", FLOAT, [2, 3, 4])
        parts = ["x", b.const(np.linspace(0.01, 0.03, 3) if shape else 0.02)]
        parts.append(b.const(np.full(shape, 7), "int8"))
        given = {} if axis is None else {"axis": axis}
        return b.model((b.op("QuantizeLinear", *parts, domain=MICROSOFT, **given), INT8))

    return made


def dequantize(element: int = INT8, zeros: bool = True) -> Case:
    def made() -> onnx.ModelProto:
        b = Builder()
        b.input("x", element, [2, 3, 4])
        parts = ["x", b.const(0.02)] + ([b.const(-3, "int8")] if zeros else [])
        return b.model((b.op("DequantizeLinear", *parts, domain=MICROSOFT), FLOAT))

    return made


POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
CONVS: dict[str, dict[str, Any]] = {
    "asymmetric": {},
    "int8": {"x": INT8},
    "per channel": {"per": "channel"},
    "uint8 weights, per channel": {"w": UINT8, "per": "channel"},
    "no bias": {"bias": False},
}
#: By operator: each form of it, and how many steps its results may be off.
CASES: dict[tuple[str, str], tuple[int, dict[str, Case]]] = {
    ("", "ConvInteger"): (
        0,
        {
            "as quantize_dynamic": integer("ConvInteger"),
            "uint8 weights": integer("ConvInteger", w=UINT8),
            "no zero points": integer("ConvInteger", zeros="none"),
            "int32 is the output": integer("ConvInteger", cast="none"),
            "two readers": integer("ConvInteger", cast="both"),
        },
    ),
    ("", "MatMulInteger"): (
        0,
        {
            "as quantize_dynamic": integer("MatMulInteger"),
            "per column": integer("MatMulInteger", zeros="vectors"),
            "no zero points": integer("MatMulInteger", zeros="none"),
            "int32 is the output": integer("MatMulInteger", cast="none"),
        },
    ),
    ("", "QLinearConv"): (1, {name: conv(**given) for name, given in CONVS.items()}),
    ("", "QLinearMatMul"): (
        1,
        {"per tensor": matmul(), "int8": matmul(a=INT8), "uint8 weights": matmul(w=UINT8)},
    ),
    (MICROSOFT, "QLinearConv"): (1, {"per channel": conv(MICROSOFT, per="channel")}),
    (MICROSOFT, "DequantizeLinear"): (
        0,
        {"int8": dequantize(), "no zero": dequantize(zeros=False)},
    ),
    (MICROSOFT, "QuantizeLinear"): (0, {"whole": quantize(), "per channel": quantize((3,), 1)}),
    (MICROSOFT, "QGemm"): (
        1,
        {
            "plain": qgemm(),
            "per column, transposed": qgemm("channel", transB=1),
            "one bias, per column": qgemm("channel", "number"),
            "matrix bias": qgemm("channel", "matrix"),
            "no bias, both transposed": qgemm(c="no", transA=1, transB=1),
            "alpha": qgemm(alpha=0.4),
            "int8": qgemm(a=INT8),
        },
    ),
    (MICROSOFT, "QLinearAdd"): (
        1,
        {
            "uint8": binary("QLinearAdd"),
            "int8, with a constant": binary("QLinearAdd", INT8, constant=True),
        },
    ),
    (MICROSOFT, "QLinearMul"): (
        1,
        {"uint8": binary("QLinearMul"), "int8": binary("QLinearMul", INT8, constant=True)},
    ),
    (MICROSOFT, "QLinearConcat"): (1, {"uint8": concat(), "int8": concat(INT8)}),
    (MICROSOFT, "QLinearWhere"): (1, {"uint8": lambda: where()}),
    (MICROSOFT, "QLinearSigmoid"): (
        1,
        {"uint8": unary("QLinearSigmoid"), "int8": unary("QLinearSigmoid", INT8)},
    ),
    (MICROSOFT, "QLinearLeakyRelu"): (
        1,
        {"uint8": unary("QLinearLeakyRelu", alpha=0.2), "int8": unary("QLinearLeakyRelu", INT8)},
    ),
    (MICROSOFT, "QLinearSoftmax"): (
        1,
        {
            "opset 13": softmax(13, 1),
            "opset 11, all from axis 1": softmax(11, 1),
            "opset 11, the last": softmax(11, -1, INT8),
        },
    ),
    (MICROSOFT, "QLinearAveragePool"): (
        1,
        {
            "padded": unary("QLinearAveragePool", **POOL),
            "with its padding": unary("QLinearAveragePool", INT8, count_include_pad=1, **POOL),
            "ceil": unary("QLinearAveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        },
    ),
    (MICROSOFT, "QLinearGlobalAveragePool"): (
        1,
        {"uint8": unary("QLinearGlobalAveragePool", channels_last=0)},
    ),
}
FORMS = [
    pytest.param(key, steps, made, id=f"{key[1]}, {name}")
    for key, (steps, forms) in CASES.items()
    for name, made in forms.items()
]


def test_every_rewrite_of_the_table_has_a_case() -> None:
    assert set(CASES) == set(REWRITES)


@pytest.mark.parametrize(("key", "steps", "made"), FORMS)
def test_a_rewrite_gives_what_the_operator_gives(
    key: tuple[str, str], steps: int, made: Case
) -> None:
    model = made()
    assert any((node.domain, node.op_type) == key for node in model.graph.node)
    pairs = in_qdq(model)
    assert not [node.op_type for node in pairs.graph.node if find(node) is not None]
    fed = feeds(model)
    assert off(read(model), pairs, fed) <= steps
    values = run(pairs, fed)
    assert all(len(np.unique(value)) > 3 for value in values.values()), "a result that tests little"


@pytest.mark.parametrize("operator", ["QLinearSigmoid", "QLinearLeakyRelu", "QLinearAdd"])
def test_a_zero_point_that_is_left_out_is_0_and_of_the_operands_type(operator: str) -> None:
    # onnxruntime's own kernels end the process without them.
    def made(zero: str, b: Builder) -> onnx.ModelProto:
        x = b.input("x", INT8, [2, 3, 4])
        parts = [x, b.const(0.05), zero] * (2 if operator == "QLinearAdd" else 1) + [b.const(0.03)]
        y = b.op(operator, *parts, *([zero] if zero else []), domain=MICROSOFT)
        return b.wrong((y, INT8, [2, 3, 4]))

    b = Builder()
    said, silent = made(b.const(0, "int8"), b), made("", Builder())
    fed = feeds(silent)
    assert off(in_qdq(said), in_qdq(silent), fed) == 0
    assert off(said, in_qdq(said), fed) <= 1


def test_most_results_of_a_convolution_are_equal() -> None:
    model = conv(per="channel")()
    fed = feeds(model)
    one, two = (next(iter(run(m, fed).values())).astype(int) for m in (model, in_qdq(model)))
    assert (one == two).mean() > 0.99


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_qgemm_without_a_scale_of_the_result_is_float(per: str) -> None:
    model = qgemm(per, real=True, alpha=0.7)()
    fed = feeds(model)
    one, two = (next(iter(run(m, fed).values())) for m in (model, in_qdq(model)))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_qlinear_matmul_with_a_scale_for_each_row_and_column() -> None:
    # onnxruntime's kernel has no scales of rows, so the definition is the reference:
    # https://onnx.ai/onnx/operators/onnx__QLinearMatMul.html
    model = matmul("vector")()
    fed = feeds(model)
    values = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    _, sa, za, w, sb, _, sy, zy = (values.get(name) for name in model.graph.node[0].input)
    a = (fed["a"].astype(float) - za[:, None]) * sa[:, None]
    y = np.rint(a @ (w * sb.astype(float)) / sy) + zy
    given = next(iter(run(in_qdq(model), fed).values()))
    assert np.abs(given - np.clip(y, 0, 255)).max() <= 1


def test_the_float_operator_has_the_name_of_the_quantised_one() -> None:
    model = conv()()
    model.graph.node[0].name = "layer1.conv"
    pairs = in_qdq(model)
    assert [n.name for n in pairs.graph.node if n.op_type == "Conv"] == ["layer1.conv"]


def test_a_node_without_a_name_is_called_by_its_place_in_the_file() -> None:
    b = Builder()
    x = b.op("Relu", b.input("x", FLOAT, [1, 3, 4, 4]))
    x = b.op("QuantizeLinear", x, b.const(0.1), b.const(0, "uint8"))
    zero = b.const(0, "uint8")
    x = b.op("QLinearSigmoid", x, b.const(0.1), zero, b.const(0.1), zero, domain=MICROSOFT)
    model = b.model((x, UINT8))
    for node in model.graph.node:
        node.name = ""
    assert [n.name for n in in_qdq(model).graph.node if n.op_type == "Sigmoid"] == [
        "QLinearSigmoid_2"
    ]


def test_the_bias_has_the_product_of_both_scales() -> None:
    pairs = in_qdq(conv(per="channel")())
    values = {one.name: onnx.numpy_helper.to_array(one) for one in pairs.graph.initializer}
    made = {node.output[0]: node for node in pairs.graph.node}
    node = next(node for node in pairs.graph.node if node.op_type == "Conv")
    sx, sw, sb = (values[made[name].input[1]] for name in node.input)
    np.testing.assert_array_equal(sb, sx * sw)
    assert values[made[node.input[2]].input[0]].dtype == np.int32


def test_the_cast_after_whole_sums_goes() -> None:
    assert counts(in_qdq(integer("ConvInteger")()))["Cast"] == 0
    assert counts(in_qdq(integer("ConvInteger", cast="none")()))["Cast"] == 1


def test_a_float_model_is_returned_as_it_is() -> None:
    b = Builder()
    model = b.model((b.op("Relu", b.input("x", FLOAT, [2])), FLOAT))
    assert in_qdq(model) == read(model)
