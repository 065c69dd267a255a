"""The commands about records: `tvmconv records list | show | set | merge`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import tvmconv
from tvmconv.cli.inputs import step, tell
from tvmconv.cli.options import Arch, AsJson, Model, takes_build_options
from tvmconv.reports.render.tables import microseconds, table

app = typer.Typer(
    help="Records: the fastest measured configurations, and those set by hand.",
    no_args_is_help=True,
)


@app.command(name="list")
def list_(
    records: Annotated[
        Path | None, typer.Option(help="file to read; default: your own and those that ship")
    ] = None,
    arch: Arch = None,
    as_json: AsJson = False,
) -> None:
    """List records by architecture and workload."""
    found = tvmconv.list_records(records, arch)
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2))
        return
    header = ("architecture", "workload", "family", "configuration", "us", "by", "used")
    rows = [
        (
            one.record.arch,
            one.shape,
            one.record.family,
            _compact(one.record.config),
            microseconds(one.record.us),
            "hand" if one.record.set_by_hand else one.record.device,
            f"no: {one.stale}" if one.stale else "yes",
        )
        for one in found
    ]
    print(table([header, *rows], right=(4,)))


@app.command()
@takes_build_options("as_arch", "calibrate")
def show(
    model: Model,
    options: Mapping[str, Any],
    layer: Annotated[str | None, typer.Option(help="one layer, as reports name it")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the configuration of each layer of MODEL, and what chose it."""
    with step(f"inspecting {model.name}"):
        found = tvmconv.layer_choices(model, layer=layer, **options)
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2))
        return
    header = ("layer", "workload", "family", "configuration", "us", "chosen by")
    rows = [
        (
            one.layer,
            one.shape,
            one.family,
            _compact(one.config),
            microseconds(one.us),
            one.chosen_by,
        )
        for one in found
    ]
    print(table([header, *rows], right=(4,)))


@app.command(name="set")
@takes_build_options("records", "as_arch", "calibrate")
def set_(
    model: Model,
    layer: Annotated[str, typer.Option(help="the layer, as reports name it")],
    config: Annotated[
        str,
        typer.Option(
            metavar="JSON", help='its fields, or {"family": ..., "config": ...}; see `show`'
        ),
    ],
    options: Mapping[str, Any],
    records: Annotated[
        Path | None, typer.Option(help="file to add to; default: your own for the architecture")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set the configuration of a layer of MODEL by hand, for later builds.

    To undo it, delete its line from the file. The last line for a workload holds.
    """
    with step(f"inspecting {model.name}"):
        path, made = tvmconv.set_record(model, layer, config, records=records, **options)
    if as_json:
        print(json.dumps([json.loads(one.to_json()) for one in made], indent=2))
    else:
        rows = [(one.family, _compact(one.config)) for one in made]
        print(table([("family", "configuration"), *rows]))
    tell(f"added to {path}: {len(made)} set by hand")


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="records")],
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write; may be a FILE")],
    as_json: AsJson = False,
) -> None:
    """Merge records: the fastest for each convolution and device, and those set by hand."""
    with step("merging"):
        read, kept = tvmconv.merge_records(files, output)
    if as_json:
        print(json.dumps({"path": str(output), "read": read, "kept": kept}))
    tell(f"wrote {output}: {kept} of {read} records")


def _compact(config: Mapping[str, Any]) -> str:
    """Returns JSON in one line, to copy into `set`."""
    return json.dumps(config, separators=(",", ":"))
