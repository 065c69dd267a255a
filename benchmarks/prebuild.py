"""Builds networks by several processes before any is timed, into files that `bench` loads."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvmconv
from benchmarks.zoo import zoo
from intrinsics.dtypes import FP16
from tvmconv.cli.inputs import step

#: Build options for inputs on a GPU.
AS_PEERS: dict[str, Any] = {"io_dtype": FP16.name, "io_layout": "NHWC"}
#: Suffix of the file of a network that is built for a GPU without them.
AS_MODEL = "-as-model"


def file_name(name: str, batch: int, suffix: str = "") -> str:
    """Returns the file name of a built network, in the folder of its `Build`."""
    return f"{name}-b{batch}{suffix}.tvmconv"


@dataclass(frozen=True)
class Build:
    """One network of the zoo at one batch, built into `folder` when called."""

    name: str
    batch: int
    target: str
    arch: str | None
    folder: Path
    #: `AS_MODEL` for one with the model's own inputs.
    suffix: str = ""

    def __call__(self) -> None:
        options = AS_PEERS if self.target == "cuda" and not self.suffix else {}
        exe = tvmconv.build(
            zoo.load(self.name), self.target, arch=self.arch, batch=self.batch, **options
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        exe.save(self.folder / file_name(self.name, self.batch, self.suffix))


def prebuild(builds: Sequence[Build], jobs: int) -> None:
    """Builds with ``jobs`` processes. Raises the error of the first that fails."""
    # A process that has used CUDA cannot be forked.
    spawn = multiprocessing.get_context("spawn")
    with step(f"building {len(builds)} networks"), ProcessPoolExecutor(jobs, spawn) as pool:
        for done in [pool.submit(build) for build in builds]:
            done.result()
