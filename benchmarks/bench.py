"""`make bench`: build networks, check them against onnxruntime, and only then time them.

    python -m benchmarks.bench --models resnet18,resnet50 --batches 1,16 --target auto

For every network and batch size: build; compare with onnxruntime on real pictures, and stop if the
outputs differ by more than a bound; time onnxruntime on the CPU, end it, then time ours with the
same number of threads; on a GPU, also time PyTorch if it is installed. Writes a table, JSON and a
plot.

With ``--int8`` each network is also quantised, on pictures that it is not tested on, compared with
onnxruntime on the same quantised model and timed beside its fp16 (`benchmarks.int8`). What MLPerf
calls Offline, inputs on the device and images per second at large batches, is the column images/s:

    python -m benchmarks.bench --int8 --models resnet50 --batches 256,512,1024

Inputs are as in practice: on a GPU fp16 in NHWC, for ours and for PyTorch. There ours is also built
and timed with the model's own inputs, fp32 in NCHW, in a column of its own.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tvm
import typer

import tvmconv
from benchmarks import int8, machine, peers, plot
from benchmarks.cell import ONNXRUNTIME, Cell, report
from benchmarks.prebuild import (
    AS_INT8,
    AS_MODEL,
    AS_PEERS,
    Build,
    compared,
    file_name,
    prebuild,
    quantise,
)
from benchmarks.zoo import zoo
from tvmconv.cli.inputs import run_or_tell, step, tell
from tvmconv.errors import TvmconvError
from tvmconv.reports.collect.latency import Effort
from tvmconv.reports.data.comparison import BOUND
from tvmconv.reports.data.latency import Timing
from tvmconv.runtime.gpu import detect_arch
from tvmconv.runtime.io_form import feeds_from_model

PICTURES = {"photos": zoo.photos, "drawings": zoo.drawings}
PYTORCH = {
    "PyTorch, CUDA graph": peers.torch_cuda_graph,
    "torch.compile": peers.torch_compile,
}
EVERYONE = (ONNXRUNTIME, *PYTORCH)
Target = Literal["auto", "llvm", "cuda"]
Kind = Literal["photos", "drawings"]


def measure(
    name: str,
    batch: int,
    target: str,
    *,
    arch: str | None = None,
    built: Path | None = None,
    pictures: Kind = "photos",
    bound: float = BOUND,
    effort: Effort | None = None,
    against: Sequence[str] = EVERYONE,
    as_written: bool = True,
    layers: bool = True,
) -> Cell:
    """Builds, checks and times one network of the zoo on ``pictures``, a key of `PICTURES`.

    built: a folder in which `prebuild` wrote the network; it is then loaded, so that this machine
    needs only TVM's runtime. against: members of `EVERYONE`. as_written: on a GPU, also time it
    with the model's own inputs. layers: also time each layer by itself. Raises `TvmconvError` if
    the network cannot be built or loaded, or pictures or weights cannot be fetched.
    """
    effort = effort or Effort()
    model = zoo.load(name)
    feeds = zoo.feeds(name, batch, PICTURES[pictures])

    def executable(suffix: str, options: dict[str, Any]) -> tvmconv.Executable:
        if built:
            return tvmconv.load(built / file_name(name, batch, suffix))
        with step(f"building {name} at batch {batch} for {target}"):
            return tvmconv.build(model, target=target, arch=arch, batch=batch, **options)

    exe = executable("", AS_PEERS if target == "cuda" else {})
    comparison = compared(model, exe, feeds)
    busy, latency, as_model, others = machine.busy(), None, None, {}
    if comparison.passed(bound):
        # No spinner from here on: drawing it would disturb the timing.
        if ONNXRUNTIME in against:
            threads = tvm.runtime.num_threads()
            others[ONNXRUNTIME] = peers.onnxruntime_cpu(model, feeds, threads, effort)
        fed = feeds_from_model(exe.inputs, feeds)
        error = comparison.relative_l2
        latency = tvmconv.bench(exe, fed, relative_l2=error, layers=layers, **vars(effort))
        if exe.target == "cuda" and as_written:
            plain = executable(AS_MODEL, {})
            if compared(model, plain, feeds).passed(bound):
                as_model = tvmconv.bench(plain, feeds, layers=False, **vars(effort)).compute
        if exe.target == "cuda":
            others |= _torch(name, batch, against, effort)
    return Cell(
        model=name,
        batch=batch,
        build_s=exe.report.build_seconds,
        tensorized=exe.report.tensorized,
        convolutions=len(exe.report.convolutions),
        comparison=comparison,
        latency=latency,
        peers=others,
        busy=busy,
        as_model=as_model,
        floor_us=exe.report.floor_us,
    )


def _torch(name: str, batch: int, against: Sequence[str], effort: Effort) -> dict[str, Timing]:
    """Times those of `PYTORCH` in `against`, if PyTorch is installed and has the network."""
    if name not in peers.TORCHVISION or not peers.has_torch():
        return {}
    return {peer: time(name, batch, effort) for peer, time in PYTORCH.items() if peer in against}


def write(
    cells: list[Cell],
    target: str,
    folder: Path,
    commit: str | None = None,
    yardstick: Mapping[str, float] | None = None,
) -> list[Path]:
    """Writes ``bench-<target>.txt``, ``.json`` and ``.png`` to ``folder``. Returns the paths.

    No plot is written if nothing was timed. yardstick: of `peers.torch_int_mm`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"bench-{target}"
    text, data, picture = (stem.with_suffix(end) for end in (".txt", ".json", ".png"))
    text.write_text("\n\n".join([report(cells), *map(str, cells)]) + "\n")
    where = machine.facts(commit)
    document = {
        "taken": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "target": target,
        "machine": where,
        "int_mm": yardstick,
        "cells": [cell.to_json() for cell in cells],
    }
    data.write_text(json.dumps(document, indent=1) + "\n")
    timed = {f"{cell.model} b{cell.batch}": cell.medians() for cell in cells if cell.latency}
    if not timed:
        return [text, data]
    gpu = where["gpus"][0]["name"] if target == "cuda" and where["gpus"] else None
    plot.draw(gpu or f"{where['cpu']}, {where['threads']} threads", timed, picture)
    return [text, data, picture]


def main(
    models: Annotated[str, typer.Option(help="of the zoo, with commas")] = "resnet18",
    batches: Annotated[str, typer.Option(help="batch sizes, with commas")] = "1,16",
    target: Annotated[Target, typer.Option(help="auto: cuda if there is a GPU")] = "auto",
    arch: Annotated[str | None, typer.Option(help="architecture; default: this machine's")] = None,
    built: Annotated[
        Path | None, typer.Option(help="folder of NAME-bBATCH.tvmconv to load, not build")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the reports")] = Path("build/reports"),
    pictures: Annotated[Kind, typer.Option(help="input; photos are downloaded")] = "photos",
    bound: Annotated[float, typer.Option(help="relative l2 error that is still timed")] = BOUND,
    min_seconds: Annotated[float, typer.Option(help="shortest timing of each")] = 1.0,
    commit: Annotated[str | None, typer.Option(help="commit measured, if git cannot tell")] = None,
    jobs: Annotated[int, typer.Option(help="processes that build all networks first")] = 1,
    against: Annotated[str, typer.Option(help="programs to compare, with semicolons")] = ";".join(
        EVERYONE
    ),
    as_written: Annotated[bool, typer.Option(help="on a GPU: also with fp32 NCHW")] = True,
    layers: Annotated[bool, typer.Option(help="time each layer by itself")] = True,
    in_int8: Annotated[bool, typer.Option("--int8", help="also quantised, beside fp16")] = False,
) -> None:
    """Build networks, check them against onnxruntime, and time those that pass."""
    if target == "auto":
        target = "cuda" if detect_arch() else "llvm"
    if unknown := set(filter(None, against.split(";"))) - set(EVERYONE):
        raise TvmconvError(f"unknown in --against: {sorted(unknown)}", hint=f"one of {EVERYONE}")
    effort = Effort(min_seconds=min_seconds)
    networks = list(itertools.product(models.split(","), _numbers(batches)))
    with_int8 = built or out / "built"
    if in_int8 and built is None:
        work = [partial(quantise, *one, with_int8, PICTURES[pictures]) for one in networks]
        if jobs > 1:
            prebuild(work, jobs)
        else:
            for (name, batch), quantised in zip(networks, work, strict=True):
                with step(f"quantising {name} for batch {batch}"):
                    quantised()
    if jobs > 1 and built is None:
        built = out / "built"
        suffixes = ["", *[AS_MODEL] * (target == "cuda" and as_written), *[AS_INT8] * in_int8]
        builds = itertools.product(networks, suffixes)
        prebuild([Build(*one, target, arch, built, suffix) for one, suffix in builds], jobs)
    cells, yardstick = [], None
    if in_int8 and target == "cuda" and peers.has_torch():
        yardstick = peers.torch_int_mm(effort)
        tell(f"torch._int_mm of {yardstick['side']:g}^3: {yardstick['tops']:.0f} TOP/s")
    for name, batch in networks:
        tell(f"{name}, batch {batch}, {target}: {'load' if built else 'build'}, check, time ...")
        cell = measure(
            name,
            batch,
            target,
            arch=arch,
            built=built,
            pictures=pictures,
            bound=bound,
            effort=effort,
            against=against.split(";"),
            as_written=as_written,
            layers=layers,
        )
        if in_int8:
            found = int8.measure(
                name,
                batch,
                target,
                with_int8,
                arch=arch,
                built=built is not None,
                pictures=PICTURES[pictures],
                effort=effort,
                layers=layers,
                fp16=cell.latency.compute if cell.latency else None,
            )
            cell = replace(cell, int8=found)
        tell(f"{cell}\n")
        cells.append(cell)
        # Now, so that a run that is stopped keeps its results.
        write(cells, target, out, commit, yardstick)
    print(report(cells))
    tell("wrote " + ", ".join(str(path) for path in write(cells, target, out, commit, yardstick)))
    refused = [f"{cell.model} at batch {cell.batch}" for cell in cells if cell.latency is None]
    if refused:
        raise TvmconvError(
            f"not timed, as they are over the bound of {bound:g}: {', '.join(refused)}"
        )
    refused = [
        f"{one.model} at batch {one.batch}" for one in cells if one.int8 and not one.int8.passed
    ]
    if refused:
        raise TvmconvError(
            f"not timed in int8: {', '.join(refused)}",
            note="ours is farther from the quantised model than that is from the float one",
        )


def _numbers(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise TvmconvError(f"{text!r} is not a list of batch sizes", hint="write --batches 1,16")
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    run_or_tell(lambda: typer.run(main))
