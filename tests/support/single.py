"""Networks of convolutions that are independent of each other, in every form that ONNX has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper

import tvmconv
from tests.support.models import Graph, random_feed
from tvmconv.reports.data.build import ConvReport

#: Relative l2 error that rounding to fp16 may cost: operands and the result each by at most
#: 2**-11 of themselves, and sums over few terms may cancel.
BOUND = 5e-3


@dataclass(frozen=True)
class Case:
    """One operator by itself.

    shape: of the image; filters: of the weight, ONNX's; attributes: the operator's.
    """

    shape: Sequence[int]
    filters: Sequence[int]
    attributes: Mapping[str, Any] = field(default_factory=dict)


def alike(
    operator: str,
    cases: Mapping[str, Case],
    *,
    computed: bool = False,
    families: Sequence[str] | None = None,
) -> dict[str, list[ConvReport]]:
    """Builds one network of all cases, each with its own input and output, and holds each output
    to onnxruntime. Gives the reports of each case's kernels.

    computed: the weights are no constants; families: see `tvmconv.build`.
    """
    g = Graph([1])
    g.inputs.clear()
    feeds = {}
    for name, case in cases.items():
        x = f"input of {name}"
        g.inputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, case.shape))
        feeds[x] = random_feed(case.shape)["input"]
        _operator(g, operator, x, case, name, computed)
    model = g.model(*cases)
    exe = tvmconv.build(model, target="llvm", families=families)
    # The shapes as well: compare raises for one that differs.
    report = tvmconv.compare(model, exe, feeds)
    assert {one.name for one in report.outputs} == set(cases)
    wrong = [
        one.name for one in report.outputs if not replace(report, outputs=(one,)).passed(BOUND)
    ]
    assert not wrong, f"{[(name, cases[name]) for name in wrong]}: {report}"
    return {name: [conv for conv in exe.report.convs if conv.name == name] for name in cases}


def _operator(g: Graph, operator: str, x: str, case: Case, name: str, computed: bool) -> None:
    """Adds it to a graph, with a bias."""
    fan = math.prod(case.filters[1:])
    weight = g.constant((g.rng.standard_normal(case.filters) / np.sqrt(fan)).astype("f"))
    if computed:
        mean = g.op("ReduceMean", x, keepdims=0)
        weight = g.op("Mul", weight, g.op("Add", mean, g.constant(np.float32(1))))
    group = case.attributes.get("group", 1)
    k = case.filters[0] if operator == "Conv" else case.filters[1] * group
    bias = g.constant(g.rng.standard_normal(k).astype("f"))
    g.op(operator, x, weight, bias, name=name, **case.attributes)


def one(
    operator: str,
    shape: Sequence[int],
    filters: Sequence[int],
    *,
    computed: bool = False,
    **attributes: Any,
) -> list[ConvReport]:
    """`alike` of one case."""
    case = Case(shape, filters, attributes)
    return alike(operator, {"output": case}, computed=computed)["output"]


def by_attributes(
    shape: Sequence[int], filters: Sequence[int], *attributes: Mapping[str, Any]
) -> dict[str, Case]:
    """Cases that differ in their attributes alone, and are named by them."""
    return {str(one): Case(shape, filters, one) for one in attributes}


def outputs(operator: str, **attributes: Any) -> Any:
    """What an operator gives where onnxruntime has none of its form."""
    g = Graph([1, 8, 9, 7])
    weight = g.constant((g.rng.standard_normal((8, 8, 3, 2)) / 7).astype("f"))
    bias = g.constant(np.arange(8, dtype="f"))
    exe = tvmconv.build(g.model(g.op(operator, "input", weight, bias, **attributes)), target="llvm")
    return exe(random_feed((1, 8, 9, 7))["input"])
