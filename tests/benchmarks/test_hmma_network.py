"""`benchmarks.hmma_network`, with the CPU's own kernels for a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import hmma_network
from benchmarks.hmma_network import Layer, compare, with_activations
from schedules.registry import registered
from tests.support import networks


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    model = networks.small()
    (image,) = model.graph.input
    shape = [d.dim_value for d in image.type.tensor_type.shape.dim]

    def feeds(name: str, batch: int, pictures: Any) -> dict[str, Any]:
        random = np.random.default_rng(0).standard_normal((batch, *shape[1:]), np.float32)
        return {image.name: random}

    monkeypatch.setattr(hmma_network.zoo, "load", lambda name: model)
    monkeypatch.setattr(hmma_network.zoo, "feeds", feeds)


@pytest.mark.parametrize(("numerics", "same"), [("ieee", True), ("v100", False)])
def test_layers_are_compared(small: None, tmp_path: Path, numerics: str, same: bool) -> None:
    families = registered()
    path = tmp_path / "a.json"
    arguments = ["small", "--target", "llvm", "--numerics", numerics, "--out", str(path)]
    done = CliRunner().invoke(hmma_network.app, arguments)
    assert done.exit_code == 0, done.output
    layers = json.loads(path.read_text())["layers"]
    assert layers
    assert all(layer["equal"] == layer["outputs"] for layer in layers) == same
    assert ("100.000 %" in done.output) == same
    assert registered() is families


def test_every_activation_becomes_an_output() -> None:
    model, operators = with_activations(networks.small())
    outputs = [value.name for value in model.graph.output]
    assert set(operators) <= set(outputs)
    assert len(outputs) == len(set(outputs))


def test_differences_are_counted() -> None:
    ours = {"a": np.array([[1, 2, -0.0]], np.float32)}
    theirs = {"a": np.array([[1, 2 + 2**-9, 0.0]], np.float32)}
    assert compare({"a": "Relu"}, [ours], [theirs]) == [Layer("a", "Relu", 3, 1, 2**-9, 1.0)]
