"""Loads a network from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvmconv.errors import ArtifactError
from tvmconv.reports.data.build import BuildReport
from tvmconv.runtime import artifact
from tvmconv.runtime.executable import Entry, Executable
from tvmconv.specs import TensorSpec


def load(path: str | Path) -> Executable:
    """Loads a network that `Executable.save` wrote. Needs TVM's runtime, not its compiler.

    Raises `ArtifactError` for another file or a damaged one. A network for another device loads,
    and its `run` raises `TargetError`.
    """
    stored = artifact.read(path)
    manifest = stored.manifest
    try:
        entries = zip(manifest["entries"], stored.codes, strict=True)
        exe = Executable(
            manifest["target"],
            manifest["arch"],
            tuple(_entry(item, code, len(stored.weights)) for item, code in entries),
            BuildReport.from_json(manifest["report"]),
            stored.weights,
            tuple(manifest["features"]),
            manifest["any_batch"],
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"{path} has a damaged manifest", note=repr(error), hint="build the network again"
        ) from error
    if not exe.entries or len(exe.report.smaller) + 1 != len(exe.entries):
        raise ArtifactError(
            f"{path} has a damaged manifest",
            note=f"{len(exe.entries)} entries, reports of {len(exe.report.smaller) + 1}",
            hint="build the network again",
        )
    if exe.target not in ("cuda", "llvm", "hmma-sim"):
        raise ArtifactError(f"{path} is for an unknown target {exe.target!r}")
    return exe


def _entry(item: dict[str, Any], code: bytes, weights: int) -> Entry:
    numbers = tuple(range(weights)[number] for number in item["weights"])
    inputs, outputs = (tuple(map(_spec, item[key])) for key in ("inputs", "outputs"))
    return Entry(inputs, outputs, code, numbers)


def _spec(item: dict[str, Any]) -> TensorSpec:
    return TensorSpec(**{**item, "shape": tuple(item["shape"])})
