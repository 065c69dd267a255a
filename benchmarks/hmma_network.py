"""Compares a network's WMMA kernels on a card with the same network on a simulated tensor core.

    python -m benchmarks.hmma_network resnet18 --images 2 --numerics h100

Both are built from one model in which every activation after a convolution is an output. The build
for the card is restricted to the WMMA families, whose order along k is the simulated one. Per layer
it counts the outputs whose bits are all equal, and gives the largest difference of the others.
Differences propagate to later layers, so only those of the first layer are its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference

import tvmconv
from benchmarks import machine
from benchmarks.zoo import zoo
from benchmarks.zoo.drawings import drawings
from intrinsics.dtypes import FP16
from tvmconv.cli.inputs import run_or_tell
from tvmconv.reports.render.tables import table

Array = NDArray[Any]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

#: In these families k ascends in steps of 16, tap after tap, in one accumulator. `direct` takes the
#: layers that none of them matches.
FAMILIES = ("wmma_packed", "wmma_nhwc", "depthwise", "direct")


@dataclass(frozen=True)
class Layer:
    """The comparison of one layer over all images.

    ``outputs`` of them, ``equal`` with equal bits; of the others the ``largest`` absolute
    difference, also in ``ulps``, units in the last place of fp16.
    """

    name: str
    operator: str
    outputs: int
    equal: int
    largest: float
    ulps: float


def with_activations(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Returns the model with more outputs, and their operators in the graph's order.

    The outputs are those that a kernel writes: of ReLU, pooling and matrix products, with which no
    later node is fused.
    """
    found = shape_inference.infer_shapes(model)
    there = {value.name for value in found.graph.output}
    operators = {}
    for node in found.graph.node:
        name = node.output[0]
        if node.op_type in ("Relu", "MaxPool", "GlobalAveragePool", "Gemm"):
            operators[name] = node.op_type
            if name not in there:
                value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
                found.graph.output.append(value)
    return found, operators


def compare(
    names: Mapping[str, str],
    card: Sequence[Mapping[str, Array]],
    simulated: Sequence[Mapping[str, Array]],
) -> list[Layer]:
    """Returns the comparison of each layer.

    names: operators by output. card, simulated: outputs of each image, fp32 arrays of fp16 values.
    """
    layers = []
    for name, operator in names.items():
        ours, theirs = (np.stack([one[name] for one in run]) for run in (card, simulated))
        different = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        size = np.maximum(np.abs(ours), np.abs(theirs)).astype(FP16.numpy)
        ulps = different / np.spacing(size).astype(np.float64)
        equal = int((ours.view(np.uint32) == theirs.view(np.uint32)).sum())
        layers.append(
            Layer(name, operator, ours.size, equal, float(different.max()), float(ulps.max()))
        )
    return layers


def outputs(exe: Any, feeds: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Returns the outputs of each image of the feed, run one at a time."""
    images = len(next(iter(feeds.values())))
    return [
        {
            name: np.asarray(array, np.float32)
            for name, array in exe.run({key: x[i : i + 1] for key, x in feeds.items()}).items()
        }
        for i in range(images)
    ]


@app.command()
def main(
    name: Annotated[str, typer.Argument(help="of the zoo")] = "resnet18",
    images: Annotated[int, typer.Option(min=1, help="drawings")] = 2,
    numerics: Annotated[str, typer.Option(help="the card's: h100, a100 or v100")] = "h100",
    target: Annotated[str, typer.Option(help="cuda; llvm has the numerics ieee")] = "cuda",
    out: Annotated[Path | None, typer.Option(help="JSON to write")] = None,
    commit: Annotated[str | None, typer.Option(help="commit, outside of a git checkout")] = None,
) -> None:
    """Count the outputs of WMMA kernels that the simulated tensor core gives bit for bit."""
    model, names = with_activations(zoo.load(name))
    card = tvmconv.build(model, target, batch=1, records=False, families=FAMILIES)
    simulated = tvmconv.build(model, "hmma-sim", batch=1, numerics=numerics)
    feeds = zoo.feeds(name, images, drawings)
    layers = compare(names, outputs(card, feeds), outputs(simulated, feeds))
    header = ("layer", "operator", "outputs", "equal", "not equal", "largest", "ulps of fp16")
    rows = [
        (one.name, one.operator, str(one.outputs), str(one.equal), str(one.outputs - one.equal),
         f"{one.largest:.3g}", f"{one.ulps:.3g}")
        for one in layers
    ]  # fmt: skip
    print(table([header, *rows], right=range(2, len(header))))
    total, equal = (
        sum(values) for values in ([x.outputs for x in layers], [x.equal for x in layers])
    )
    print(f"{equal} of {total} outputs have equal bits, {100 * equal / total:.3f} %")
    if out is not None:
        families = sorted({conv.family for conv in card.report.convs})
        document = {
            "machine": machine.facts(commit), "network": name, "images": images,
            "numerics": numerics, "families": families, "layers": [asdict(x) for x in layers],
        }  # fmt: skip
        out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    run_or_tell(app)
