"""The command about simulated tensor cores: `tvmconv simulate`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tvmconv
from intrinsics.dtypes import FP16
from tvmconv.cli.inputs import parse_one_size, show, step, tell
from tvmconv.cli.options import AsJson, OneShape
from tvmconv.errors import FeedError, TvmconvError

if TYPE_CHECKING:
    from tvmconv.simulation.tracing import Trace

#: Equals `simulator.DEFAULT`, whose import would load TVM before ``--help``.
NUMERICS = "v100"

# Options of a trace.
Layer = Annotated[str | None, typer.Option(help="whose tile to trace, as reports name it")]
Tile = Annotated[
    str | None, typer.Option(metavar="I,J", help="output pixels 16 I, channels 16 J onwards")
]
Lane = Annotated[int | None, typer.Option(help="whose operands to show, 0 to 31; default: 0")]
Step = Annotated[
    int | None, typer.Option("--k", help="which WMMA of the tile's reduction; default: 0")
]


def simulate(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="an ONNX file; --trace needs none")
    ] = None,
    numerics: Annotated[
        str, typer.Option(help="how products are added: v100, a100, h100, ieee or exact")
    ] = NUMERICS,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="*.npy as the network takes them, or pictures"),
    ] = None,
    activations: Annotated[
        str, typer.Option(help="between layers: float16 as compiled, or float32")
    ] = FP16.name,
    shape: OneShape = None,
    trace: Annotated[bool, typer.Option("--trace", help="list one WMMA's instructions")] = False,
    layer: Layer = None,
    tile: Tile = None,
    lane: Lane = None,
    k: Step = None,
    as_json: AsJson = False,
) -> None:
    """Run MODEL on a simulated tensor core, bit for bit, and compare it with onnxruntime.

    With --trace, list the HMMA instructions of one WMMA, with a lane's operands: from a tile of a
    layer of MODEL, or without MODEL from an example.
    """
    shapes = parse_one_size(shape or ())
    of_a_model = {"--layer": layer, "--tile": tile, "--k": k}
    if trace and model is None:
        _refuse({**of_a_model, "--images": images}, "a model", "name the model")
        return show(tvmconv.trace_example(numerics, lane or 0), as_json)
    if trace and model is not None:
        place = (layer, tile, lane or 0, k or 0)
        return show(_traced(model, numerics, images, activations, shapes, *place), as_json)
    _refuse({**of_a_model, "--lane": lane}, "a trace", "add --trace")
    if model is None:
        raise TvmconvError("there is no model to simulate", hint="name one, or say --trace")
    if images is None:
        raise FeedError("there are no images to simulate", hint="name a folder: --images DIR")
    report = tvmconv.simulate(
        model,
        images,
        numerics=numerics,
        activations=activations,
        shapes=shapes,
        watch=lambda number: tell(f"simulating image {number}"),
    )
    show(report, as_json)


def _refuse(given: Mapping[str, object], what: str, hint: str) -> None:
    """Raises `TvmconvError` if options are given that belong to something else."""
    names = [name for name, value in given.items() if value is not None]
    if names:
        are = "is an option" if len(names) == 1 else "are options"
        raise TvmconvError(f"{' and '.join(names)} {are} of {what}", hint=hint)


def _traced(
    model: Path,
    numerics: str,
    folder: Path | None,
    activations: str,
    shapes: Mapping[str, tuple[int, ...]] | None,
    layer: str | None,
    tile: str | None,
    lane: int,
    k: int,
) -> Trace:
    if layer is None or tile is None:
        raise TvmconvError(
            "a trace of a model needs a layer and a tile", hint="add --layer NAME --tile I,J"
        )
    place = _tile(tile)
    tvmconv.Trace.check(numerics, lane)  # before the build, which takes long
    with step(f"building {model.name}"):
        exe = tvmconv.build(
            model,
            "hmma-sim",
            batch=1,
            shapes=shapes,
            numerics=numerics,
            activations=activations,
        )
    if folder is None:
        tell("no --images, so the input is random")
    feeds = None if folder is None else next(tvmconv.read_images(folder, exe.inputs))
    with step(f"simulating up to {layer}"):
        return tvmconv.trace_layer(exe, feeds, layer, place, numerics=numerics, lane=lane, wmma=k)


def _tile(text: str) -> tuple[int, int]:
    """Parses ``3,1``. Raises `TvmconvError`."""
    match = re.fullmatch(r"(\d+),(\d+)", text)
    if match is None:
        raise TvmconvError(f"--tile {text!r} is not a tile", hint="write --tile I,J, such as 0,1")
    return int(match[1]), int(match[2])
