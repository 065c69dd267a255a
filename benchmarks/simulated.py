"""Compares networks on a simulated tensor core with onnxruntime, on photos.

    python -m benchmarks.simulated                       # ResNet-18 and the half-width ResNet-50
    python -m benchmarks.simulated --models resnet50 --images 1 --numerics h100

A published run for comparison: ResNet-18 with every product on a simulator of Volta's tensor cores,
activations kept in fp32 between layers, 10 images, mean l2 norm of the output 82.7028 in
onnxruntime and 82.1664 simulated, relative error F_2 0.1915 %.

If a network ends in a Softmax, which hides errors of confident answers, its input is compared too.
An image of ResNet-18 takes some 25 s on one core.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper

import tvmconv
from benchmarks.zoo import zoo
from tvmconv.cli.inputs import run_or_tell
from tvmconv.reports.data.simulation import SimulationReport

MODELS = "resnet18,opennsfw"


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with the input of a final Softmax as one more output."""
    outputs = {value.name for value in model.graph.output}
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for node in model.graph.node:
        if node.op_type == "Softmax" and node.output[0] in outputs:
            logits = helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, None)
            found.graph.output.append(logits)
    return found


def one_by_one(feeds: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yields the images of a batch."""
    count = len(next(iter(feeds.values())))
    for at in range(count):
        yield {name: np.ascontiguousarray(array[at : at + 1]) for name, array in feeds.items()}


def measure(name: str, images: int, numerics: str, activations: str) -> SimulationReport:
    """Simulates a network on photos. Raises as `zoo.load` and `tvmconv.simulate` do."""
    feeds = one_by_one(zoo.feeds(name, images))
    model = with_logits(zoo.load(name))
    return tvmconv.simulate(model, feeds, numerics=numerics, activations=activations)


def main(
    models: Annotated[str, typer.Option(help="names of the zoo, with commas")] = MODELS,
    images: Annotated[int, typer.Option(min=1, help="photos")] = 10,
    numerics: Annotated[str, typer.Option(help="v100, a100, h100, ieee or exact")] = "v100",
    activations: Annotated[str, typer.Option(help="float32, as published, or float16")] = "float32",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON to write")] = None,
) -> None:
    """Simulate networks of the zoo on photos, and print their distance from onnxruntime."""
    found = {}
    for name in models.split(","):
        start = perf_counter()
        report = measure(name, images, numerics, activations)
        seconds = perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name}: {seconds / images:.1f} s per image, built and compared; {peak:.2f} GiB")
        print(f"{report}\n", flush=True)
        found[name] = {**report.to_json(), "seconds": seconds, "peak_gib": peak}
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run_or_tell(lambda: typer.run(main))
