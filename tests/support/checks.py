"""What tests say of a model: it comes out right, or it is refused by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import pytest
from onnx import compose, helper

import tvmconv
from tvmconv import errors

#: The family whose kernels compile fastest, for tests of what is around them.
DIRECT = ("direct",)


def right(model: Any, bound: float = 5e-3, families: Sequence[str] | None = None) -> None:
    """Built for this CPU it answers as onnxruntime does. families: see `tvmconv.build`."""
    exe = tvmconv.build(model, target="llvm", families=families)
    assert tvmconv.compare(model, exe).relative_l2 <= bound


def all_right(
    models: Mapping[str, onnx.ModelProto],
    bound: float = 5e-3,
    families: Sequence[str] | None = None,
) -> None:
    """Each of them is `right`, built in one network for each opset, which costs far less."""
    of_opset: dict[int, dict[str, onnx.ModelProto]] = defaultdict(dict)
    for name, model in models.items():
        of_opset[model.opset_import[0].version][name] = model
    for some in of_opset.values():
        model = together(some)
        exe = tvmconv.build(model, target="llvm", families=families)
        report = tvmconv.compare(model, exe)
        errors = {one.name: one.relative_l2 for one in report.outputs}
        assert {name.split(": ")[0] for name in errors} == set(some)
        wrong = {
            name: error for name, error in errors.items() if error is None or not error <= bound
        }
        assert not wrong, report


def together(models: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """A model of them all, side by side, whose tensors' names begin with the model's.

    They are of one opset. A name has no ``": "``, which ends it.
    """
    whole = onnx.GraphProto(name="test")
    for name, model in models.items():
        graph = compose.add_prefix_graph(model.graph, f"{name}: ")
        whole.node.extend(graph.node)
        whole.input.extend(graph.input)
        whole.output.extend(graph.output)
        whole.initializer.extend(graph.initializer)
    one = next(iter(models.values()))
    return helper.make_model(whole, opset_imports=one.opset_import, ir_version=one.ir_version)


def refused(model: onnx.ModelProto, says: str) -> None:
    with pytest.raises(errors.UnsupportedOperatorError) as error:
        tvmconv.build(model, target="llvm", fallback="none")
    assert says in error.value.what
    assert error.value.hint
