"""The command line: `tvmconv build`, `run`, `bench`, `compare`, `inspect` and others.

A command's result goes to stdout: a table, or JSON with ``--json``. Progress and errors go to
stderr, so that stdout can always be parsed. An error that the user can fix ends with exit code 1
and no traceback; so does a comparison that exceeds its bound.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tvmconv
from tvmconv.cli import quantize as cli_quantize
from tvmconv.cli import records as cli_records
from tvmconv.cli import simulate as cli_simulate
from tvmconv.cli import tune as cli_tune
from tvmconv.cli.inputs import (
    read_feeds,
    run_or_tell,
    show,
    step,
    tell,
    write_output,
)
from tvmconv.cli.options import AsJson, Bound, Input, Model, What, takes_build_options
from tvmconv.errors import TvmconvError
from tvmconv.reports.render.parts import parts_headline
from tvmconv.reports.render.tables import table

if TYPE_CHECKING:
    from tvmconv.runtime.executable import Executable

app = typer.Typer(
    help="Compiles ONNX convolutional networks to tensor cores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(cli_tune.tune)
app.command()(cli_simulate.simulate)
app.command()(cli_quantize.quantize)
app.add_typer(cli_records.app, name="records")


@app.command()
@takes_build_options()
def build(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write")],
    options: Mapping[str, Any],
    as_json: AsJson = False,
) -> None:
    """Compile MODEL into one file, and report what became of every convolution."""
    exe = _built(model, options)
    exe.save(output)
    show(exe.report, as_json)
    tell(f"wrote {output}, {output.stat().st_size / 1e6:.1f} MB")


@app.command()
@takes_build_options()
def inspect(
    model: Model,
    options: Mapping[str, Any],
    as_json: AsJson = False,
) -> None:
    """Report what would become of MODEL, without building it."""
    with step(f"inspecting {model.name}"):
        report = tvmconv.inspect(model, **options)
    show(report, as_json)


@app.command()
@takes_build_options("as_arch")
def run(
    what: What,
    options: Mapping[str, Any],
    inputs: Input = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="folder for the outputs, as *.npy")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a network once, on arrays from files."""
    feeds = read_feeds(inputs or ())
    exe = _executable(what, options)
    with step("running"):
        outputs = exe.run(feeds)
    results = [write_output(name, array, output_dir) for name, array in outputs.items()]
    if as_json:
        print(json.dumps({"outputs": results}, indent=2))
    else:
        rows = [[str(value) for value in result.values()] for result in results]
        print(table([list(results[0]), *rows]))


@app.command()
@takes_build_options("as_arch")
def compare(
    model: Model,
    options: Mapping[str, Any],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="what `build` made of MODEL")
    ] = None,
    inputs: Input = None,
    bound: Bound = None,
    as_json: AsJson = False,
) -> None:
    """Compare outputs with onnxruntime's; exit code 1 if they differ by more than --bound."""
    feeds = read_feeds(inputs or ())
    exe = _executable(file or model, options)
    with step("comparing with onnxruntime"):
        report = tvmconv.compare(model, exe, feeds or None)
    limit = report.bound if bound is None else bound
    passed = report.passed(limit)
    show(report, as_json, bound=limit, passed=passed)
    if not passed:
        tell(f"failed: relative l2 error {report.relative_l2:.2e}, the bound is {limit:g}")
        raise typer.Exit(1)


@app.command()
@takes_build_options("as_arch")
def bench(
    what: What,
    options: Mapping[str, Any],
    inputs: Input = None,
    check: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="for a FILE: the model to compare with")
    ] = None,
    unchecked: Annotated[bool, typer.Option(help="for a FILE: time without comparison")] = False,
    bound: Bound = None,
    warmup_ms: Annotated[float, typer.Option(help="warm-up, in milliseconds")] = 200.0,
    min_runs: Annotated[int, typer.Option(min=1, help="fewest runs to time")] = 10,
    min_seconds: Annotated[float, typer.Option(help="shortest time to spend")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Time a network, after comparing it with onnxruntime; one that fails is not timed."""
    reference = check or (what if _is_model(what) else None)
    if reference is None and not unchecked:
        raise TvmconvError(
            f"not timed, as {what} was not compared with a reference",
            hint="give the model it was built from, --check model.onnx, or say --unchecked",
        )
    feeds = read_feeds(inputs or ()) or None
    exe = _executable(what, options)
    error = None
    if reference is not None:
        with step("comparing with onnxruntime"):
            report = tvmconv.compare(reference, exe, feeds)
        limit = report.bound if bound is None else bound
        if not report.passed(limit):
            raise TvmconvError(f"not timed, as it is over the bound of {limit:g}", note=str(report))
        error = report.relative_l2
    # No spinner: drawing it would disturb the timing.
    tell(f"timing, for {min_seconds:g} s or more")
    latency = tvmconv.bench(
        exe,
        feeds,
        relative_l2=error,
        warmup_ms=warmup_ms,
        min_runs=min_runs,
        min_seconds=min_seconds,
    )
    show(latency, as_json)


@app.command()
def zoo(
    name: Annotated[str | None, typer.Argument(help="the network to write")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file to write; default NAME.onnx")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the networks that benchmarks run, or write one as an ONNX file."""
    networks = _zoo()
    if name is not None:
        path = output or Path(f"{name}.onnx")
        with step(f"making {name}"):
            path.write_bytes(networks.load(name).SerializeToString())
        if as_json:
            print(json.dumps({"path": str(path), "bytes": path.stat().st_size}))
        tell(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")
        return
    keys = ("name", "parameters", "gmacs", "input_name", "source", "licence")
    entries = [{key: getattr(entry, key) for key in keys} for entry in networks.ZOO]
    if as_json:
        print(json.dumps(entries, indent=2))
    else:
        rows = [[str(value or "") for value in entry.values()] for entry in entries]
        print(table([keys, *rows], right=(1, 2)))


def main() -> None:
    """Runs the console script. What is compiled while a network runs is told on stderr."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("tvmconv").setLevel(logging.INFO)
    run_or_tell(app)


def _is_model(path: Path) -> bool:
    return path.suffix.lower() == ".onnx"


def _built(model: Path, options: Mapping[str, Any]) -> Executable:
    with step(f"building {model.name}"):
        exe = tvmconv.build(model, **options)
    if exe.in_parts:
        tell(parts_headline(exe.report))
    return exe


def _executable(what: Path, options: Mapping[str, Any]) -> Executable:
    """Returns the network of a file that `build` wrote, or builds a model."""
    if _is_model(what):
        return _built(what, options)
    if options:
        names = ("shape" if key == "shapes" else key.replace("_", "-") for key in options)
        given = ", ".join(f"--{name}" for name in names)
        raise TvmconvError(
            f"{what} is built already, so {given} can't change it",
            hint="name a model to build it; a model's file name ends in .onnx",
        )
    return tvmconv.load(what)


def _zoo() -> Any:
    """Returns the module of the zoo.

    `tvmconv` does not import `benchmarks`, which depends on it and is not in its wheel. So
    `benchmarks` registers itself under the entry point group "tvmconv.zoo" in pyproject.toml, as
    any package of networks could. A wheel has the entry without the module.
    """
    for entry in metadata.entry_points(group="tvmconv.zoo"):
        try:
            return entry.load()
        except ModuleNotFoundError:
            continue
    raise TvmconvError(
        "the zoo is not installed",
        note="it is part of the source tree, not of the wheel",
        hint="clone the project and run `make setup`",
    )


if __name__ == "__main__":
    main()
