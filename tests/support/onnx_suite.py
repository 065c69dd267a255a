"""The cases of onnx's own backend test, by operator. Needs no TVM."""

from __future__ import annotations

import functools
import glob
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from tvmconv.onnx.model import opset
from tvmconv.onnx.supported import value_inputs

#: The operators of convolution networks: each of their cases passes, or has its exclusion.
OPERATORS = (
    *("Conv", "ConvTranspose", "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"),
    *("BatchNormalization", "Gemm", "MatMul", "Relu", "LeakyRelu", "PRelu", "Clip", "HardSwish"),
    *("HardSigmoid", "Sigmoid", "Tanh", "Softmax", "Add", "Mul", "Sub", "Div", "Sum", "Concat"),
    *("Pad", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "Slice"),
    *("ReduceMean", "LRN", "Identity", "Dropout", "Erf", "Sqrt", "Pow", "Max", "Min", "Cast"),
)
#: Whole models that onnx keeps as files.
KINDS = ("pytorch-converted", "pytorch-operator")
#: Operators whose operands are rounded to fp16, each by 2**-11 of itself at most.
ROUNDED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
#: What a sum of such products may be off by, in parts of the output's root mean square: as
#: `tvmconv.compare` has it for whole networks.
FP16_BOUND = 5e-3

#: Inputs and reference outputs of one run.
DataSet = tuple[list[Any], list[Any]]


@functools.cache
def cases() -> Mapping[str, Sequence[TestCase]]:
    """Every case, in groups: by operator, or by kind for whole models. Takes five seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # references overflow on purpose
        nodes = {case.name: case for case in load_model_tests(kind="node")}
    groups: dict[str, list[TestCase]] = defaultdict(list)
    for name, case in nodes.items():
        # An operator that ONNX defines by others has cases of those others, too.
        whole = nodes.get(re.sub("_expanded.*", "", name), case)
        groups[whole.model.graph.node[0].op_type].append(case)
    for kind in (*KINDS, "simple"):
        groups[kind] = sorted(load_model_tests(kind=kind), key=lambda case: case.name)
    return groups


def model(case: TestCase) -> onnx.ModelProto:
    """The model of a case, out of its file where it has one."""
    return case.model or onnx.load(f"{case.model_dir}/model.onnx")


def data_sets(case: TestCase) -> list[DataSet]:
    """What a case is fed, and what should come out; tensors as arrays."""
    if case.data_sets is not None:
        return [(list(map(_array, fed)), list(map(_array, out))) for fed, out in case.data_sets]
    folders = sorted(glob.glob(f"{case.model_dir}/test_data_set*"))
    return [(_stored(folder, "input"), _stored(folder, "output")) for folder in folders]


def _stored(folder: str, what: str) -> list[Any]:
    count = len(glob.glob(f"{folder}/{what}_*.pb"))
    paths = [f"{folder}/{what}_{i}.pb" for i in range(count)]
    return [numpy_helper.to_array(onnx.load_tensor(path)) for path in paths]


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def together(cases: Sequence[TestCase]) -> onnx.ModelProto:
    """All cases, which are of one opset, side by side in one model.

    Inputs whose values decide shapes are constants, with the values that a case is fed.
    """
    graph = onnx.GraphProto(name="together")
    for i, case in enumerate(cases):
        one = model(case)
        names = [value.name for value in one.graph.input]
        fed, _ = data_sets(case)[0]
        values = dict(zip(names, fed, strict=True))
        decisive = value_inputs(one) if len(names) > len(value_inputs(one)) else set()
        constants = [numpy_helper.from_array(np.asarray(values[n]), n) for n in decisive]
        kept = [value for value in one.graph.input if value.name not in decisive]
        part = onnx.ModelProto()
        part.CopyFrom(one)
        del part.graph.input[:]
        part.graph.input.extend(kept)
        part.graph.initializer.extend(constants)
        graph.MergeFrom(compose.add_prefix(part, f"{i}_").graph)
    graph.name = "together"
    version = opset(model(cases[0]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10)


def tolerances(case: TestCase) -> dict[str, float]:
    """onnx's own; where operands are rounded to fp16, with an absolute one that follows from it.

    An element of a sum of products can be as near zero as it likes while its terms are not, so
    what rounding puts in is measured against the output as a whole.
    """
    if ROUNDED.isdisjoint(node.op_type for node in model(case).graph.node):
        return {"rtol": case.rtol, "atol": case.atol}
    outputs = [np.asarray(out, "float64") for _, outs in data_sets(case) for out in outs]
    scale = max(float(np.sqrt(np.mean(out**2))) for out in outputs if out.size)
    return {"rtol": case.rtol, "atol": max(case.atol, FP16_BOUND * scale)}
