"""Arguments that several commands of `tvmconv.cli.app` share, such as the options of `build`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tvmconv.cli.inputs import parse_batch, parse_shapes

Command = Callable[..., None]

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="an ONNX file")]
What = Annotated[
    Path,
    typer.Argument(metavar="FILE|MODEL", help="file of `build`, or *.onnx, which is built"),
]
Target = Annotated[str | None, typer.Option(help="cuda (the default); on a CPU: llvm, hmma-sim")]
Arch = Annotated[str | None, typer.Option(help="GPU architecture, such as sm_90a; builds anywhere")]
Batch = Annotated[
    str | None,
    typer.Option(metavar="N[,N...]", help="for an open first dimension; several: for any batch"),
]
OneShape = Annotated[
    list[str] | None, typer.Option(metavar="NAME=N,C,H,W", help="an input's shape; repeatable")
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=N,C,H,W|any",
        help="an input's shape; repeatable, of one input for several sizes; any: compiled when fed",
    ),
]
Precision = Annotated[str | None, typer.Option(help="precision of convolutions; default: fp16")]
Quantization = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="scales: OpenPPL's JSON or a TensorRT calibration cache"),
]
IoDtype = Annotated[
    str | None,
    typer.Option(help="of inputs and outputs, float32 or float16; of inputs, int8 or uint8"),
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
Bound = Annotated[
    float | None,
    typer.Option(help="relative l2 error that still passes; default 5e-3, for int8 0.14"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


Families = Annotated[
    str | None,
    typer.Option(metavar="NAME[,NAME...]", help="families of schedules to choose among"),
]
Layout = Annotated[
    str | None, typer.Option(help="of activations between layers: packed; default what costs least")
]
Fallback = Annotated[
    str | None,
    typer.Option(help="for operators that can't be built: onnxruntime (the default), none"),
]

Calibrate = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="images by which activations are kept in the range of fp16"),
]


def build_options(
    target: Target = None,
    arch: Arch = None,
    batch: Batch = None,
    shape: Shape = None,
    precision: Precision = None,
    quantization: Quantization = None,
    io_dtype: IoDtype = None,
    io_layout: IoLayout = None,
    records: Records = None,
    families: Families = None,
    layout: Layout = None,
    fallback: Fallback = None,
    as_arch: As = None,
    calibrate: Calibrate = None,
) -> dict[str, Any]:
    """Returns the arguments for `tvmconv.build` that were given; the others keep its defaults."""
    options = {
        "target": target,
        "arch": arch,
        "batch": None if batch is None else parse_batch(batch),
        "shapes": parse_shapes(shape or ()),
        "precision": precision,
        "quantization": quantization,
        "io_dtype": io_dtype,
        "io_layout": io_layout,
        "records": False if records == "off" else records,
        "families": None if families is None else tuple(families.split(",")),
        "layout": layout,
        "fallback": fallback,
        "as_arch": as_arch,
        "calibrate": calibrate,
    }
    return {key: value for key, value in options.items() if value is not None}


def takes_build_options(*without: str) -> Callable[[Command], Command]:
    """Gives a command the options of `build_options`, except those named here.

    They replace its parameter ``options``, which gets their values.
    """
    shared = {
        name: one
        for name, one in inspect.signature(build_options, eval_str=True).parameters.items()
        if name not in without
    }

    def decorate(command: Command) -> Command:
        own = dict(inspect.signature(command, eval_str=True).parameters)
        del own["options"]
        parameters = {
            name: one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, one in {**own, **shared}.items()
        }

        @functools.wraps(command)
        def run(**given: Any) -> None:
            options = build_options(**{name: given.pop(name) for name in shared})
            command(**given, options=options)

        # Typer reads both.
        run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {name: one.annotation for name, one in parameters.items()}
        return run

    return decorate
