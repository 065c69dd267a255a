"""Input and output of the commands of `tvmconv.cli.app`: arguments, arrays, reports, progress."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tvmconv.errors import FeedError, ShapeError, TvmconvError

#: As `--shape any`.
ANY = "any"
#: Shapes of inputs, by name.
Shapes = dict[str, tuple[int, ...]]


@contextmanager
def step(text: str) -> Iterator[None]:
    """Shows a spinner and a clock on stderr while the body runs, if stderr is a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        progress.add_task(text, total=None)
        yield


def run_or_tell(program: Callable[[], object]) -> None:
    """Runs a command line. Prints expected errors to stderr, without a traceback; exit code 1."""
    try:
        program()
    except (TvmconvError, OSError) as error:
        tell(f"Error: {error.at_shell() if isinstance(error, TvmconvError) else error}")
        sys.exit(1)


def tell(text: str) -> None:
    """Prints ``text`` to stderr."""
    print(text, file=sys.stderr)


def show(report: Any, as_json: bool, **more: Any) -> None:
    """Prints ``report`` as text, or as JSON with ``more`` added to its fields."""
    print(json.dumps({**report.to_json(), **more}, indent=2) if as_json else report)


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Parses ``name=1,3,224,224``. Raises `ShapeError`."""
    name, equals, sizes = text.partition("=")
    if not equals or not re.fullmatch(r"\d+(,\d+)*", sizes):
        raise ShapeError(f"--shape {text!r} is not a shape", hint="write --shape name=1,3,224,224")
    return name, tuple(int(size) for size in sizes.split(","))


def parse_shapes(texts: Sequence[str]) -> Shapes | list[Shapes | str] | None:
    """Parses ``name=1,3,224,224`` of several inputs; a name that comes again begins the shapes of
    the next size. ``any`` comes last in the list. Raises `ShapeError`."""
    each: list[Shapes] = []
    for name, shape in (parse_shape(text) for text in texts if text != ANY):
        if not each or name in each[-1]:
            each.append({})
        each[-1][name] = shape
    for one in each:
        if one.keys() != each[0].keys():
            some, other = (", ".join(names) for names in (each[0], one))
            raise ShapeError(
                f"--shape names {some} for one size, {other} for another",
                hint="name the same inputs for each: --shape a=1,3,8,8 --shape b=1,4 "
                "--shape a=1,3,9,9 --shape b=1,4",
            )
    if ANY in texts:
        return [*each, ANY]
    return [*each] if len(each) > 1 else each[0] if each else None


def parse_one_size(texts: Sequence[str]) -> Shapes | None:
    """Parses ``name=1,3,224,224`` of several inputs, each once. Raises `ShapeError`."""
    shapes = parse_shapes(texts)
    if isinstance(shapes, list):
        raise ShapeError(
            "--shape gives several sizes, or any, and this command takes one",
            hint="give each input's shape once",
        )
    return shapes


def parse_batch(text: str) -> int | list[int]:
    """Parses ``8``, or buckets, ``1,8,32``. Raises `ShapeError`."""
    if not re.fullmatch(r"-?\d+(,-?\d+)*", text):
        raise ShapeError(f"--batch {text!r} is not a number", hint="write --batch 8 or 1,8,32")
    sizes = [int(size) for size in text.split(",")]
    return sizes if len(sizes) > 1 else sizes[0]


def read_feeds(inputs: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Reads arrays, each given as ``name=file.npy``. Raises `FeedError`."""
    feeds = {}
    for text in inputs:
        name, equals, file = text.partition("=")
        if not equals:
            raise FeedError(f"--input {text!r} names no file", hint="write --input name=array.npy")
        try:
            array = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise FeedError(f"input {name!r}: {file} can't be read", note=str(error)) from error
        if not isinstance(array, np.ndarray):  # an .npz archive
            raise FeedError(f"input {name!r}: {file} is not one array", hint="use numpy.save")
        feeds[name] = array
    return feeds


def write_output(name: str, array: NDArray[Any], folder: Path | None) -> dict[str, Any]:
    """Writes one output if a folder is given. Returns its row for the report."""
    result = {"output": name, "dtype": str(array.dtype), "shape": list(array.shape)}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (re.sub(r"[^\w.-]", "_", name) + ".npy")  # "input:0", "a/b"
        np.save(path, array)
        result["file"] = str(path)
    return result
