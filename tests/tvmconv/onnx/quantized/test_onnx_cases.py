"""ONNX's own cases of quantised operators: as QDQ they give what the standard says.

A case feeds scales and zero points; here they are constants, as in a network.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.support import onnx_suite
from tests.support.quantized import in_qdq, run

#: By operator: the cases, and the steps that they may be off (`test_rewrites`).
CASES = {
    "ConvInteger": (0, ("convinteger_without_padding", "convinteger_with_padding")),
    "MatMulInteger": (0, ("matmulinteger",)),
    "QLinearConv": (1, ("qlinearconv",)),
    "QLinearMatMul": (
        1,
        tuple(
            f"qlinearmatmul_{rank}D_{kind}_{real}"
            for rank in (2, 3)
            for kind in ("uint8", "int8")
            for real in ("float32", "float16")
        ),
    ),
    "QuantizeLinear": (0, ("quantizelinear", "quantizelinear_axis")),
    "DequantizeLinear": (0, ("dequantizelinear", "dequantizelinear_axis")),
    "DynamicQuantizeLinear": (
        0,
        tuple(f"dynamicquantizelinear{more}" for more in ("", "_max_adjusted", "_min_adjusted")),
    ),
}
NAMED = [(op, steps, f"test_{name}") for op, (steps, names) in CASES.items() for name in names]


@pytest.mark.parametrize(("operator", "steps", "name"), NAMED, ids=[name for *_, name in NAMED])
def test_a_case_of_onnx(operator: str, steps: int, name: str) -> None:
    case = next(one for one in onnx_suite.cases()[operator] if one.name == name)
    model = onnx.ModelProto()
    model.CopyFrom(onnx_suite.model(case))
    names = [value.name for value in model.graph.input]
    fed, expected = next(iter(onnx_suite.data_sets(case)))
    constants = [numpy_helper.from_array(value, key) for key, value in zip(names, fed, strict=True)]
    model.graph.initializer.extend(constants[1:])
    del model.graph.input[1:]
    given = run(in_qdq(model), {names[0]: fed[0]})
    for one, other in zip(given.values(), expected, strict=True):
        assert one.dtype == other.dtype
        assert np.abs(one.astype(float) - other.astype(float)).max() <= steps
