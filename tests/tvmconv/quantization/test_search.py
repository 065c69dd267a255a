"""A bound on the error: layers go back to floating point until it is reached."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support.calibrated import feeds
from tests.support.models import Graph, residual_net
from tvmconv.errors import QuantizationError
from tvmconv.quantization import accuracy, search


def outlier() -> onnx.ModelProto:
    """Four layers; the input of ``bad`` has one channel of a thousand times the others' size, which
    its weights divide by that."""
    g = Graph([1, 16, 16, 16])
    x = g.op("Relu", g.conv("input", 16, 16, name="first"))
    large = np.ones((1, 16, 1, 1), np.float32)
    large[0, 5] = 1000
    x = g.op("Mul", g.op("Sin", x), g.constant(large), name="large")
    weight = g.rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12 / large
    x = g.op("Relu", g.op("Conv", x, g.constant(weight), pads=[1] * 4, name="bad"))
    x = g.op("Relu", g.conv(x, 16, 16, name="third"))
    return g.model(g.conv(x, 16, 16, name="last"))


def test_the_layer_that_costs_most_goes_back_first() -> None:
    model = outlier()
    fed = feeds(model, 4)
    free = tvmconv.quantize(model, fed, method="minmax")
    assert free.report.relative_l2 > 0.1
    bound = free.report.relative_l2 / 2
    found = tvmconv.quantize(model, fed, method="minmax", max_error=bound)
    assert found.report.relative_l2 <= bound
    assert found.report.quantized == ("first", "third", "last")
    bad = found.report.layers[1]
    assert (bad.decision, bad.alone) == ("float", max(one.alone for one in found.report.layers))
    assert bad.reason.startswith("put back for max_error")
    kept = tvmconv.quantize(model, fed, method="minmax", keep=["bad"])
    assert kept.proto.graph == found.proto.graph


class Powers:
    """A reference for which powers of errors add up, and models are the names of their layers."""

    def __init__(self, errors: dict[str, float]) -> None:
        self.errors = errors

    def error(self, model: Any, most: int | None = None) -> float:
        return math.sqrt(sum(self.errors[name] ** 2 for name in model))


@pytest.mark.parametrize(
    ("bound", "left"), [(0.2, "abcd"), (0.12, "abd"), (0.05, "bd"), (0.015, "b")]
)
def test_the_most_error_for_a_microsecond_goes_back_first(bound: float, left: str) -> None:
    """c costs less accuracy than a, and goes before it, as it saves much less."""
    errors = {"a": 0.1, "b": 0.01, "c": 0.09, "d": 0.03}
    savings = {"a": 10.0, "b": 9.0, "c": 1.0, "d": 5.0}
    reference: Any = Powers(errors)
    write: Any = tuple
    found = search.within(bound, list("abcd"), savings, write, write, reference)
    assert "".join(found.names) == left
    assert found.error == pytest.approx(reference.error(left))
    assert found.error <= bound
    assert found.alone == ({} if left == "abcd" else errors)


def test_half_of_the_error_is_reached() -> None:
    model = residual_net(16, 16, 32)
    fed = feeds(model, 2)
    free = tvmconv.quantize(model, fed, method="minmax")
    half = tvmconv.quantize(model, fed, method="minmax", max_error=free.report.relative_l2 / 2)
    assert half.report.relative_l2 <= free.report.relative_l2 / 2
    assert 0 < len(half.report.quantized) < len(free.report.quantized)
    # Measured anew, from what was written.
    exact = accuracy.errors(model, half.proto, fed)
    assert exact.largest() == pytest.approx(half.report.relative_l2, rel=1e-3)
    assert "the bound on the error" in str(half.report)
    assert " alone " in str(half.report)


def test_a_bound_that_holds_already_changes_nothing() -> None:
    model = residual_net(16, 16, 32)
    fed = feeds(model, 2)
    free = tvmconv.quantize(model, fed, method="minmax")
    found = tvmconv.quantize(model, fed, method="minmax", max_error=0.5)
    assert found.proto.graph == free.proto.graph
    assert all(layer.alone is None for layer in found.report.layers)


def test_a_bound_that_can_not_be_reached_says_what_is() -> None:
    model = residual_net(1, 16, 32)
    with pytest.raises(QuantizationError, match="leaves no layer in int8") as error:
        tvmconv.quantize(model, feeds(model, 2), method="minmax", max_error=1e-7)
    assert "with all 4 the error is" in error.value.note
    assert "alone" in error.value.note


def test_nothing_to_quantise_is_no_error() -> None:
    g = Graph([1, 16])
    weight = g.constant(np.ones((16, 16), np.float32))
    model = g.model(g.op("MatMul", "input", weight, name="small"))
    found = tvmconv.quantize(model, feeds(model), max_error=0.1)
    assert found.report.quantized == ()
    assert found.report.relative_l2 == 0
