"""Loads a network from a file."""

from __future__ import annotations

from pathlib import Path

from tvmconv.errors import ArtifactError
from tvmconv.reports.data.build import BuildReport
from tvmconv.runtime import artifact
from tvmconv.runtime.any_shape import AnyShape, Recipe
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
        models, recipe = stored.models, None
        if "any_shape" in manifest:
            models, recipe = models[:-1], Recipe.from_json(manifest["any_shape"], models[-1])
        entries = from_items(manifest["entries"], stored.weights, stored.codes, models)
        exe = Executable(
            manifest["target"],
            manifest["arch"],
            entries,
            BuildReport.from_json(manifest["report"]),
            tuple(manifest["features"]),
            manifest["any_batch"],
            None if recipe is None else AnyShape(recipe, entries, Path(path)),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"{path} has a damaged manifest", note=repr(error), hint="build the network again"
        ) from error
    found = len(exe.report.smaller) + 1
    if found != len(exe.entries) and (exe.any_shape is None or exe.entries or found > 1):
        raise ArtifactError(
            f"{path} has a damaged manifest",
            note=f"{len(exe.entries)} entries, reports of {found}",
            hint="build the network again",
        )
    if exe.target not in ("cuda", "llvm", "hmma-sim"):
        raise ArtifactError(f"{path} is for an unknown target {exe.target!r}")
    return exe
