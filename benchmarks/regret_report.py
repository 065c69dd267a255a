"""What `benchmarks.regret` writes: JSON of rows and their summary, and several joined to one."""

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
    """1 where there are none."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 1.0


def write(path: Path, target: str, commit: str | None, summary: Row, rows: list[Row]) -> None:
    document = {
        "target": target,
        "machine": machine.facts(commit),
        "summary": summary,
        "rows": rows,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def merge(paths: Sequence[Path], out: Path, summarise: Callable[[list[Row]], Row]) -> Row:
    """The rows of all, with one summary, in `out`: parts of one run on GPUs of one machine.

    Raises TvmconvError where commit, GPU or driver differ.
    """
    documents = [json.loads(path.read_text()) for path in paths]
    for path, document in zip(paths, documents, strict=True):
        if _where(document) != _where(documents[0]):
            raise TvmconvError(
                f"{path} and {paths[0]} are not parts of one run",
                note=f"{_where(document)} and {_where(documents[0])}",
            )
    rows = [row for document in documents for row in document["rows"]]
    merged = {**documents[0], "summary": summarise(rows), "rows": rows}
    out.write_text(json.dumps(merged, indent=1) + "\n")
    return dict(merged["summary"])


def _where(document: Row) -> str:
    """Commit and GPUs; of those no clocks, which change."""
    facts = document["machine"]
    gpus = [f"{gpu['name']}, driver {gpu['driver_version']}" for gpu in facts["gpus"]]
    return "; ".join([f"commit {facts['commit']}", *gpus])
