"""The JSON of `benchmarks.regret`: rows and their summary, and the merge of several files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from tvmconv.errors import TvmconvError

Row = dict[str, Any]


def geometric_mean(ratios: Sequence[float]) -> float:
    """Returns the geometric mean; 1 for no numbers."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 1.0


def write(path: Path, target: str, commit: str | None, summary: Row, rows: list[Row]) -> None:
    """Writes rows, summary, target and machine to ``path`` as JSON."""
    document = {
        "target": target,
        "machine": machine.facts(commit),
        "summary": summary,
        "rows": rows,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def merge(paths: Sequence[Path], out: Path, summarise: Callable[[list[Row]], Row]) -> Row:
    """Writes all rows with one summary to ``out``, with all machines; returns the summary.

    Raises `TvmconvError` if GPUs or drivers differ.
    """
    documents = [json.loads(path.read_text()) for path in paths]
    for path, document in zip(paths, documents, strict=True):
        if _gpus(document) != _gpus(documents[0]):
            raise TvmconvError(
                f"{path} and {paths[0]} were not measured on the same GPUs",
                note=f"{_gpus(document)}, and {_gpus(documents[0])}",
            )
    rows = [row for document in documents for row in document["rows"]]
    merged = {
        "target": documents[0]["target"],
        "machines": [document["machine"] for document in documents],
        "summary": summarise(rows),
        "rows": rows,
    }
    out.write_text(json.dumps(merged, indent=1) + "\n")
    return dict(merged["summary"])


def _gpus(document: Row) -> str:
    """Returns GPUs and drivers as text, without clocks, which change."""
    gpus = document["machine"]["gpus"]
    return "; ".join(f"{gpu['name']}, driver {gpu['driver_version']}" for gpu in gpus)
