"""Loads a network from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvmconv.errors import ArtifactError
from tvmconv.reports.data.build import BuildReport
from tvmconv.runtime import artifact
from tvmconv.runtime.executable import Entry, Executable
from tvmconv.runtime.onnx_step import OnnxStep
from tvmconv.specs import TensorSpec


def load(path: str | Path) -> Executable:
    """Loads a network that `Executable.save` wrote. Needs TVM's runtime, not its compiler.

    Raises `ArtifactError` for another file or a damaged one. A network for another device loads,
    and its `run` raises `TargetError`.
    """
    stored = artifact.read(path)
    manifest = stored.manifest
    try:
        entries = _entries(manifest["entries"], stored)
        exe = Executable(
            manifest["target"],
            manifest["arch"],
            entries,
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


def _entries(items: list[dict[str, Any]], stored: artifact.Artifact) -> tuple[Entry, ...]:
    """The entries of a manifest. Raises ``ValueError`` if code or models are missing or left."""
    codes, models = iter(stored.codes), iter(stored.models)

    def step(item: dict[str, Any]) -> Entry | OnnxStep:
        if not item.get("onnx"):
            return entry(item)
        return OnnxStep(tuple(item["inputs"]), tuple(item["outputs"]), _taken(models))

    def entry(item: dict[str, Any]) -> Entry:
        numbers = tuple(range(len(stored.weights))[number] for number in item["weights"])
        inputs, outputs = (tuple(map(_spec, item[key])) for key in ("inputs", "outputs"))
        steps = tuple(map(step, item.get("steps", ())))
        return Entry(inputs, outputs, b"" if steps else _taken(codes), numbers, steps)

    found = tuple(map(entry, items))
    if [*codes, *models]:
        raise ValueError("the file has more code than the manifest has entries")
    return found


def _taken(contents: Iterator[bytes]) -> bytes:
    content = next(contents, None)
    if content is None:
        raise ValueError("the file has less code than the manifest has entries")
    return content


def _spec(item: dict[str, Any]) -> TensorSpec:
    return TensorSpec(**{**item, "shape": tuple(item["shape"])})
