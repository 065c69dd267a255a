"""The command that quantises: `tvmconv quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tvmconv
from tvmconv.cli.inputs import parse_one_size, show, step, tell
from tvmconv.cli.options import AsJson, Model, OneShape
from tvmconv.errors import FeedError

Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="the model to write")]
Images = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="to calibrate with: *.npy as the network takes them, *.npz by input, or pictures",
    ),
]
Method = Annotated[str, typer.Option(help="of calibration: entropy, minmax or percentile")]
Keep = Annotated[
    list[str] | None, typer.Option(metavar="LAYER", help="stays fp16; repeatable; see `inspect`")
]
MaxError = Annotated[
    float | None,
    typer.Option(metavar="E", help="relative l2 of the outputs; layers go back to fp16 for it"),
]
Unsigned = Annotated[
    bool,
    typer.Option("--unsigned/--signed", help="whether what is never negative gets uint8, or int8"),
]
BytesIn = Annotated[
    bool, typer.Option("--bytes-in", help="inputs will be given in int8, so the stem is, too")
]
Arch = Annotated[str | None, typer.Option(help="GPU whose microseconds are told; default sm_90a")]
Mean = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="of pictures from 0 to 1; default ImageNet's")
]
Std = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="their deviation; default ImageNet's")
]
PictureLayout = Annotated[str | None, typer.Option(help="of the input: NCHW, the default, or NHWC")]
Resize = Annotated[
    float | None, typer.Option(help="shorter side over the crop's; default 256/224; 1: no margin")
]


def quantize(
    model: Model,
    images: Images,
    output: Output,
    method: Method = "entropy",
    keep: Keep = None,
    max_error: MaxError = None,
    unsigned: Unsigned = True,
    bytes_in: BytesIn = False,
    arch: Arch = None,
    shape: OneShape = None,
    mean: Mean = None,
    std: Std = None,
    picture_layout: PictureLayout = None,
    resize: Resize = None,
    as_json: AsJson = False,
) -> None:
    """Quantise MODEL to int8, as standard ONNX, and report the error of each layer.

    The network runs on the images to find the range of every activation. The size of pictures is
    the input's, which --shape gives where the model leaves it open.
    """
    given: dict[str, Any] = {
        "mean": None if mean is None else _colours("--mean", mean),
        "std": None if std is None else _colours("--std", std),
        "layout": picture_layout,
        "resize": resize,
    }
    options: dict[str, Any] = {} if arch is None else {"arch": arch}
    preprocessing = tvmconv.Preprocessing(
        **{name: value for name, value in given.items() if value is not None}
    )
    with step(f"quantising {model.name}"):
        quantized = tvmconv.quantize(
            model,
            images,
            method=method,
            keep=keep or (),
            max_error=max_error,
            unsigned=unsigned,
            bytes_in=bytes_in,
            shapes=parse_one_size(shape or ()),
            preprocessing=preprocessing,
            **options,
        )
    quantized.save(output)
    show(quantized.report, as_json)
    tell(f"wrote {output}, {output.stat().st_size / 1e6:.1f} MB")


def _colours(option: str, text: str) -> tuple[float, ...]:
    """Parses ``0.5,0.5,0.5``. Raises `FeedError`."""
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError as error:
        raise FeedError(
            f"{option} {text!r} is not three numbers", hint=f"write {option} 0.485,0.456,0.406"
        ) from error
