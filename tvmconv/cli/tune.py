"""The command that measures: `tvmconv tune`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

import tvmconv
from tvmconv.cli.inputs import show, tell
from tvmconv.cli.options import AsJson, Model, takes_build_options
from tvmconv.errors import TvmconvError

if TYPE_CHECKING:
    from tvmconv.tuning import workloads as tuning
    from tvmconv.tuning.stopwatch import Tracker

#: Seconds in a unit of `--budget`.
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@takes_build_options("records", "as_arch", "calibrate", "fallback")
def tune(
    model: Model,
    options: Mapping[str, Any],
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="such as 90s, 5m, 1h; default: no limit")
    ] = None,
    most: Annotated[
        int, typer.Option("--candidates", min=1, help="of each convolution, at most")
    ] = 32,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="processes that compile; default: as many as help")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="file to add to; default: your own for the architecture")
    ] = None,
    tracker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="TVM's tracker of machines that measure")
    ] = None,
    key: Annotated[str | None, typer.Option(help="of those machines, with --tracker")] = None,
    dry_run: Annotated[bool, typer.Option(help="show what would be measured")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the convolutions of MODEL and record the fastest kernels, for later builds.

    It can be stopped at any time: records are kept, and the same command continues from there.
    """
    bar = _Bar()
    try:
        with bar.progress:
            report = tvmconv.tune(
                model,
                **options,
                budget_s=None if budget is None else parse_budget(budget),
                records=records,
                most=most,
                jobs=jobs,
                tracker=_tracker(tracker, key),
                dry_run=dry_run,
                watch=bar.watch,
            )
    except KeyboardInterrupt:
        tell(f"stopped; {bar.measured} recorded, and the same command continues from there")
        raise typer.Exit(130) from None
    show(report, as_json)


class _Bar:
    """Progress bars on stderr: workloads done, and the present one, if stderr is a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
        self.progress = Progress(
            *columns,
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all: TaskID | None = None
        self._one: TaskID | None = None
        self.measured = 0

    def watch(self, at: tuning.Progress) -> None:
        """Shows the progress, and prints each workload that is done."""
        if self._all is None or self._one is None:
            self._all = self.progress.add_task("convolutions", total=at.total)
            self._one = self.progress.add_task("", total=None)
        layer = at.layer
        self.progress.update(self._all, completed=at.done)
        self.progress.update(
            self._one, description=layer.shape, completed=at.checked, total=layer.candidates
        )
        if layer.status == "planned":
            return
        self.measured += layer.status == "measured"
        said = f"{layer.shape}: {layer.status}"
        if layer.us:
            said += f", {layer.us:.4g} us, {layer.gain:.2f} times as fast as the model's choice"
        self.progress.console.print(
            f"{said} ({at.done} of {at.total})", highlight=False, soft_wrap=True
        )


def parse_budget(text: str) -> float:
    """Parses ``90s``, ``5m`` or ``1.5h`` into seconds. Raises `TvmconvError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or float(match[1]) == 0:
        raise TvmconvError(f"--budget {text!r} is not a time", hint="write --budget 90s, 5m or 1h")
    return float(match[1]) * UNITS[match[2]]


def _tracker(address: str | None, key: str | None) -> Tracker | None:
    if address is None and key is None:
        return None
    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdigit() or not key:
        raise TvmconvError(
            f"--tracker {address} --key {key} do not name machines",
            hint="write --tracker HOST:PORT --key KEY, as the tracker knows them",
        )
    return tvmconv.Tracker(host, int(port), key)
