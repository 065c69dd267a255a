"""The command about simulated tensor cores: `tvmconv simulate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tvmconv
from tvmconv.cli_io import parse_shape, show, step, tell
from tvmconv.cli_options import AsJson, Shape
from tvmconv.errors import FeedError, TvmconvError

if TYPE_CHECKING:
    from tvmconv.tracing import Trace

#: `simulator.DEFAULT`; to import it would load TVM before ``--help``.
NUMERICS = "v100"


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
    ] = "float16",
    shape: Shape = None,
    trace: Annotated[bool, typer.Option("--trace", help="list one WMMA's instructions")] = False,
    layer: Annotated[
        str | None, typer.Option(help="whose tile to trace, as reports name it")
    ] = None,
    tile: Annotated[
        str | None, typer.Option(metavar="I,J", help="output pixels 16 I, channels 16 J onwards")
    ] = None,
    lane: Annotated[int, typer.Option(help="whose operands to show, 0 to 31")] = 0,
    k: Annotated[int, typer.Option("--k", help="which WMMA of the tile's reduction")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run MODEL on a simulated tensor core, bit for bit, and compare it with onnxruntime.

    With --trace, list the HMMA instructions of one WMMA, with a lane's operands: of a tile of a
    layer of MODEL, or without MODEL of an example.
    """
    shapes = dict(parse_shape(text) for text in shape or []) or None
    if trace:
        found = _traced(model, numerics, images, activations, shapes, layer, tile, lane, k)
        show(found, as_json)
        return
    if layer is not None or tile is not None:
        raise TvmconvError("--layer and --tile are of a trace", hint="add --trace")
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


def _traced(
    model: Path | None,
    numerics: str,
    folder: Path | None,
    activations: str,
    shapes: Any,
    layer: str | None,
    tile: str | None,
    lane: int,
    k: int,
) -> Trace:
    if model is None:
        if layer is not None or tile is not None:
            raise TvmconvError("--layer and --tile are of a model", hint="name the model")
        return tvmconv.trace_example(numerics, lane)
    if layer is None or tile is None:
        raise TvmconvError(
            "a trace of a model is of one tile of a layer", hint="add --layer NAME --tile I,J"
        )
    place = _tile(tile)
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
        tell("no --images, so the operands are of random numbers")
    feeds = None if folder is None else next(tvmconv.read_images(folder, exe.inputs))
    with step(f"simulating up to {layer}"):
        return tvmconv.trace_layer(exe, feeds, layer, place, numerics=numerics, lane=lane, wmma=k)


def _tile(text: str) -> tuple[int, int]:
    """``3,1``. Raises TvmconvError."""
    match = re.fullmatch(r"(\d+),(\d+)", text)
    if match is None:
        raise TvmconvError(f"--tile {text!r} is no tile", hint="write --tile I,J, such as 0,1")
    return int(match[1]), int(match[2])
