"""Loads a network from a file."""

from __future__ import annotations

from pathlib import Path

from tvmconv.errors import ArtifactError
from tvmconv.reports.data.build import BuildReport
from tvmconv.runtime import artifact
from tvmconv.runtime.entry import from_items
from tvmconv.runtime.executable import Executable


def load(path: str | Path) -> Executable:
    """Loads a network that `Executable.save` wrote. Needs TVM's runtime, not its compiler.

    Raises `ArtifactError` for another file or a damaged one. A network for another device loads,
    and its `run` raises `TargetError`.
    """
    stored = artifact.read(path)
    manifest = stored.manifest
    try:
        entries = from_items(manifest["entries"], stored.weights, stored.codes, stored.models)
        exe = Executable(
            manifest["target"],
            manifest["arch"],
            entries,
            BuildReport.from_json(manifest["report"]),
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
