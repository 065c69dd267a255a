"""The way in: a model becomes one graph for each batch, or says what can't be built."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support.fallbacks import of_domain
from tests.support.models import Graph, residual_net
from tvmconv.errors import ModelError, ShapeError, UnsupportedOperatorError
from tvmconv.onnx.prepare import prepare
from tvmconv.parts.fallback import find_parts
from tvmconv.runtime.io_form import IoForm


def test_there_is_a_graph_for_every_batch_the_smallest_first() -> None:
    prepared = prepare(residual_net("batch"), [8, 1], None, IoForm())
    assert [graph.inputs[0].shape[0] for graph in prepared.graphs] == [1, 8]
    assert [graph.outputs[0].shape[0] for graph in prepared.graphs] == [1, 8]
    assert prepared.any_batch
    assert not prepared.unsupported
    assert find_parts(prepared, "none") == ((), ())


@pytest.mark.parametrize("batch", [3, [3]])
def test_one_batch_is_a_number_or_a_list(batch: int | list[int]) -> None:
    prepared = prepare(residual_net("batch"), batch, None, IoForm())
    assert [graph.inputs[0].shape[0] for graph in prepared.graphs] == [3]
    assert prepared.any_batch == isinstance(batch, list)


def test_nodes_have_names_of_their_own_and_batch_norms_are_folded() -> None:
    g = Graph(["batch", 8, 6, 6])
    statistics = [g.constant(np.ones(8, "float32")) for _ in range(4)]
    y = g.op("BatchNormalization", g.conv("input", 8, 8), *statistics)
    model = g.model(g.op("Relu", y))
    for node in model.graph.node:
        node.name = "same"
    (graph,) = prepare(model, 1, None, IoForm()).graphs
    names = [node.name for node in graph.original.graph.node]
    assert len(set(names)) == len(names) == len(model.graph.node)
    kinds = {node.op_type for node in graph.simple.graph.node}
    assert "BatchNormalization" in {node.op_type for node in graph.original.graph.node}
    assert "BatchNormalization" not in kinds
    assert {node.name for node in model.graph.node} == {"same"}, "the caller's model is untouched"


def test_inputs_and_outputs_have_the_form_that_was_asked_for() -> None:
    (graph,) = prepare(residual_net(2), None, None, IoForm("float16", "NHWC")).graphs
    (given,) = graph.inputs
    assert (given.shape, given.dtype, given.layout) == ((2, 12, 12, 3), "float16", "NHWC")
    assert graph.outputs[0].dtype == "float16"


def unsupported() -> onnx.ModelProto:
    g = Graph(["batch", 8, 6, 6])
    return g.model(g.op("Unique", g.conv("input", 8, 8), axis=0))


def test_what_cannot_be_built_is_listed_and_raised_only_if_asked() -> None:
    prepared = prepare(unsupported(), 1, None, IoForm())
    assert list(prepared.unsupported.values()) == [1]
    assert not prepared.not_taken
    (graph,) = prepared.graphs
    assert [node.op_type for node in graph.simple.graph.node] == ["Conv", "Unique"]
    with pytest.raises(UnsupportedOperatorError, match=r"Unique .*x1"):
        find_parts(prepared, "none")


def test_what_onnxruntime_does_not_take_stays_as_it_is() -> None:
    prepared = prepare(of_domain("com.example", "Own"), None, None, IoForm())
    assert dict(prepared.unsupported) == {"com.example.Own": 1}
    assert "Own" in prepared.not_taken
    (graph,) = prepared.graphs
    assert graph.simple is graph.original


def test_images_that_affect_each_other_are_refused_for_several_batches() -> None:
    g = Graph(["batch", 8, 6, 6])
    x = g.conv("input", 8, 8)
    model = g.model(g.op("Sub", x, g.op("ReduceMean", x, axes=[0], keepdims=1)))
    with pytest.raises(ModelError, match="images of one batch affect each other"):
        prepare(model, [1, 2], None, IoForm())
    assert len(prepare(model, 2, None, IoForm()).graphs) == 1


def test_open_dimensions_are_refused() -> None:
    with pytest.raises(ShapeError, match="left open"):
        prepare(residual_net("batch"), None, None, IoForm())
