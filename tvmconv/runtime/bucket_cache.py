"""The folder in which buckets are kept that were compiled when their shapes were first fed.

One file for each bucket, in the form of `tvmconv.runtime.artifact`. Its name begins with the
identity of what it was compiled from, which the file has in full as well, and has the shapes of the
inputs: ``IDENTITY-1x3x224x224.bucket``. A file gets its name once it is complete, so that processes
may share a folder. The least recently used goes first: a file's time of change is the last time
that a process took it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from tvmconv.errors import ArtifactError
from tvmconv.runtime import artifact
from tvmconv.runtime.buckets import Shapes

log = logging.getLogger(__name__)

SUFFIX = ".bucket"
#: Characters of the identity in a file's name, and the most of the shapes; longer ones are hashed.
IDENTITY, MOST = 32, 120


class BucketCache:
    """The buckets of one network in a folder, which other networks may use as well."""

    def __init__(self, folder: Path | None, identity: str) -> None:
        """folder: None keeps nothing."""
        self._folder, self._identity = folder, identity

    def path(self, shapes: Shapes) -> Path | None:
        """The file of a bucket, whether it is there or not; None without a folder."""
        if self._folder is None:
            return None
        text = "_".join("x".join(map(str, shape)) or "scalar" for shape in shapes)
        if len(text) > MOST:
            text = hashlib.sha256(text.encode()).hexdigest()
        return self._folder / f"{self._identity[:IDENTITY]}-{text}{SUFFIX}"

    def read(self, shapes: Shapes) -> artifact.Artifact | None:
        """The file of a bucket, which counts as used now; None if none can be used."""
        path = self.path(shapes)
        if path is None or not path.exists():
            return None
        try:
            stored = artifact.read(path)
        except ArtifactError as error:
            log.warning("%s is left out: %s", path, error.note or error.what)
            return None
        if stored.manifest.get("identity") != self._identity:
            log.warning("%s is left out: it is of another network, build or version", path)
            return None
        with contextlib.suppress(OSError):  # read-only, or let go by another process
            os.utime(path)
        return stored

    def write(self, shapes: Shapes, stored: artifact.Artifact) -> None:
        """Keeps a bucket; where that is not possible, a warning is logged."""
        path = self.path(shapes)
        if path is None:
            return
        manifest = {**stored.manifest, "identity": self._identity}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            artifact.write(
                artifact.Artifact(manifest, stored.codes, stored.weights, stored.models), path
            )
        except (ArtifactError, OSError) as error:
            note = error.note if isinstance(error, ArtifactError) else error
            log.warning("a bucket is kept in memory alone: %s can't be written: %s", path, note)

    def shapes(self) -> list[Shapes]:
        """The shapes of the buckets that are there, as far as the names of files have them."""
        if self._folder is None:
            return []
        found = []
        for path in sorted(self._folder.glob(f"{self._identity[:IDENTITY]}-*{SUFFIX}")):
            text = path.name[IDENTITY + 1 : -len(SUFFIX)]
            if re.fullmatch(r"(\d+(x\d+)*|scalar)(_(\d+(x\d+)*|scalar))*", text):
                sizes = (() if one == "scalar" else one.split("x") for one in text.split("_"))
                found.append(tuple(tuple(map(int, size)) for size in sizes))
        return found

    def trim(self, most: int, used: Mapping[Shapes, float]) -> None:
        """Removes the least recently used buckets of the folder, of any network, past `most`.

        used: when this process last ran buckets of its own, in seconds since the epoch.
        """
        if self._folder is None:
            return
        for shapes, when in used.items():
            path = self.path(shapes)
            with contextlib.suppress(OSError):
                if path is not None and path.stat().st_mtime < when:
                    os.utime(path, (when, when))
        times: dict[Path, float] = {}
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another process removes some as well
                times[path] = path.stat().st_mtime
        for path in sorted(times, key=lambda one: times[one])[: max(0, len(times) - most)]:
            with contextlib.suppress(OSError):
                path.unlink()
                log.info("removed %s, the least recently used of more than %d", path, most)
