"""Networks of one convolution, in every form that ONNX has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import tvmconv
from tests.support.models import Graph, random_feed
from tvmconv.reports.data.build import BuildReport

#: Relative l2 error that rounding to fp16 may cost: operands and the result each by at most
#: 2**-11 of themselves, and sums over few terms may cancel.
BOUND = 5e-3


def one(
    operator: str,
    shape: Sequence[int],
    filters: Sequence[int],
    *,
    bias: bool = True,
    computed: bool = False,
    **attributes: Any,
) -> BuildReport:
    """Builds a network of one operator, holds it to onnxruntime, gives the report.

    shape: of the image; filters: of the weight, ONNX's; computed: the weight is no constant.
    """
    g = Graph(shape)
    fan = math.prod(filters[1:])
    weight = g.constant((g.rng.standard_normal(filters) / np.sqrt(fan)).astype("f"))
    if computed:
        mean = g.op("ReduceMean", "input", keepdims=0)
        weight = g.op("Mul", weight, g.op("Add", mean, g.constant(np.float32(1))))
    inputs = ["input", weight]
    if bias:
        k = filters[0] if operator == "Conv" else filters[1] * attributes.get("group", 1)
        inputs.append(g.constant(g.rng.standard_normal(k).astype("f")))
    model = g.model(g.op(operator, *inputs, **attributes))
    exe = tvmconv.build(model, target="llvm")
    # The shape as well: compare raises for one that differs.
    report = tvmconv.compare(model, exe, random_feed(shape))
    assert report.passed(BOUND), f"{attributes}: {report}"
    return exe.report


def named(cases: dict[str, tuple[Any, ...]]) -> Any:
    return pytest.mark.parametrize(
        ("shape", "filters", "attributes"), cases.values(), ids=list(cases)
    )


def outputs(operator: str, **attributes: Any) -> Any:
    """What an operator gives where onnxruntime has none of its form."""
    g = Graph([1, 8, 9, 7])
    weight = g.constant((g.rng.standard_normal((8, 8, 3, 2)) / 7).astype("f"))
    bias = g.constant(np.arange(8, dtype="f"))
    exe = tvmconv.build(g.model(g.op(operator, "input", weight, bias, **attributes)), target="llvm")
    return exe(random_feed((1, 8, 9, 7))["input"])
