"""Networks that `bench` makes before it times: quantised, and built by several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

import tvmconv
from benchmarks.zoo import zoo
from benchmarks.zoo.model import Source
from intrinsics.dtypes import FP16
from tvmconv.cli.inputs import step
from tvmconv.errors import TvmconvError
from tvmconv.reports.data.comparison import CompareReport
from tvmconv.runtime.io_form import feeds_from_model

#: Build options for inputs on a GPU.
AS_PEERS: dict[str, Any] = {"io_dtype": FP16.name, "io_layout": "NHWC"}
#: Suffix of the file of a network that is built for a GPU without them.
AS_MODEL = "-as-model"
#: Suffix of the file of a network in int8.
AS_INT8 = "-int8"

#: Pictures that a network is quantised with, and at most so many at once: a classifier is a product
#: with a vector at batch 1, which stays in floating point, and not at others.
CALIBRATED, AT_ONCE = 32, 8


def options(target: str, suffix: str, model: onnx.ModelProto) -> dict[str, Any]:
    """Returns the build options of a network whose file has this suffix. On a GPU one in int8 is
    fed its own numbers, as the networks of MLPerf's submissions are."""
    if target != "cuda" or suffix == AS_MODEL:
        return {}
    return AS_PEERS | ({"io_dtype": _fed(model)} if suffix == AS_INT8 else {})


def _fed(model: onnx.ModelProto) -> str:
    """The dtype to which the input is quantised; fp16 where it is not."""
    constants = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] == model.graph.input[0].name:
            return str(numpy_helper.to_array(constants[node.input[2]]).dtype)
    return FP16.name


def file_name(name: str, batch: int, suffix: str = "") -> str:
    """Returns the file name of a built network, in the folder of its `Build`."""
    return f"{name}-b{batch}{suffix}.tvmconv"


def model_name(name: str, batch: int) -> str:
    """Returns the file name of the quantised network."""
    return f"{name}-b{batch}.int8.onnx"


def quantise(name: str, batch: int, folder: Path, pictures: Source) -> Path:
    """Quantises a network on pictures that `bench` does not show it. Returns the file.

    Raises as `zoo.load`, `zoo.calibration` and `tvmconv.quantize` do.
    """
    at_once = min(batch, AT_ONCE)
    feeds = zoo.calibration(name, CALIBRATED // at_once, at_once, pictures, besides=batch)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / model_name(name, batch)
    tvmconv.quantize(zoo.load(name), feeds, bytes_in=True).save(path)
    return path


def read(name: str, batch: int, folder: Path) -> onnx.ModelProto:
    """Returns what `quantise` wrote. Raises `TvmconvError` if there is none."""
    path = folder / model_name(name, batch)
    if not path.exists():
        raise TvmconvError(
            f"there is no {path}", hint="leave --built out: then networks are quantised first"
        )
    return onnx.load(path)


def compared(
    model: onnx.ModelProto, exe: tvmconv.Executable, feeds: Mapping[str, Any]
) -> CompareReport:
    """Compares with onnxruntime on feeds as the model takes them."""
    with step("comparing with onnxruntime"):
        return tvmconv.compare(model, exe, feeds_from_model(exe.inputs, feeds))


@dataclass(frozen=True)
class Build:
    """One network of the zoo at one batch, built into `folder` when called."""

    name: str
    batch: int
    target: str
    arch: str | None
    folder: Path
    #: `AS_MODEL` for one with the model's own inputs, `AS_INT8` for the one in int8, which was
    #: quantised into `folder`.
    suffix: str = ""

    def __call__(self) -> None:
        model = (
            read(self.name, self.batch, self.folder)
            if self.suffix == AS_INT8
            else zoo.load(self.name)
        )
        chosen = options(self.target, self.suffix, model)
        exe = tvmconv.build(model, self.target, arch=self.arch, batch=self.batch, **chosen)
        self.folder.mkdir(parents=True, exist_ok=True)
        exe.save(self.folder / file_name(self.name, self.batch, self.suffix))


def prebuild(work: Sequence[Callable[[], object]], jobs: int) -> None:
    """Calls each, such as a `Build`, in one of ``jobs`` processes. Raises the error of the first
    that fails."""
    # A process that has used CUDA cannot be forked.
    spawn = multiprocessing.get_context("spawn")
    with step(f"making {len(work)} networks"), ProcessPoolExecutor(jobs, spawn) as pool:
        for done in [pool.submit(one) for one in work]:
            done.result()
