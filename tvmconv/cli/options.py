"""The arguments that several commands of `tvmconv.cli.app` share, and what they say to `build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tvmconv.cli.inputs import parse_batch, parse_shape

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="an ONNX file")]
What = Annotated[
    Path,
    typer.Argument(metavar="FILE|MODEL", help="what `build` wrote, or *.onnx, which is built"),
]
Target = Annotated[str | None, typer.Option(help="cuda (the default); on a CPU: llvm, hmma-sim")]
Arch = Annotated[str | None, typer.Option(help="GPU architecture, such as sm_90a; builds anywhere")]
Batch = Annotated[
    str | None,
    typer.Option(metavar="N[,N...]", help="for an open first dimension; several: for any batch"),
]
Shape = Annotated[
    list[str] | None, typer.Option(metavar="NAME=N,C,H,W", help="an input's shape; repeatable")
]
Precision = Annotated[str | None, typer.Option(help="of the arithmetic; fp16 is the default")]
IoDtype = Annotated[
    str | None, typer.Option(help="of inputs and outputs: float32 or float16; default the model's")
]
IoLayout = Annotated[
    str | None, typer.Option(help="of images: NHWC, or NCHW as in the model, the default")
]
Records = Annotated[
    str | None,
    typer.Option(metavar="FILE|off", help="what `tune` wrote; default your own and those shipped"),
]
As = Annotated[
    str | None,
    typer.Option("--as", metavar="ARCH", help="on a CPU: show what this GPU would take, as sm_90a"),
]
Input = Annotated[
    list[str] | None, typer.Option("--input", metavar="NAME=FILE.npy", help="an input; repeatable")
]
Bound = Annotated[float, typer.Option(help="relative l2 error that still passes")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


def build_options(
    target: str | None,
    arch: str | None,
    batch: str | None,
    shape: list[str] | None,
    precision: str | None,
    io_dtype: str | None,
    io_layout: str | None,
    records: str | None = None,
    as_arch: str | None = None,
) -> dict[str, Any]:
    """What `tvmconv.build` is called with: only what was given, so that defaults are its own."""
    shapes = dict(parse_shape(text) for text in shape or [])
    batches = None if batch is None else parse_batch(batch)
    options = {
        "target": target,
        "arch": arch,
        "batch": batches,
        "shapes": shapes or None,
        "precision": precision,
        "io_dtype": io_dtype,
        "io_layout": io_layout,
        "records": False if records == "off" else records,
        "as_arch": as_arch,
    }
    return {key: value for key, value in options.items() if value is not None}
