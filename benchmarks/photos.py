"""Pictures to feed networks with: crops of real photos, and drawn ones; and the fetch of a file.

Noise is a poor feed: a trained network answers near zero to it, so a relative error says nothing.
Both kinds here have what photos have: smooth areas, edges, and detail whose amplitude falls as 1/f.
What comes out of packages is checked against a recorded SHA-256, cached, and never part of this
repository.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from tvmconv.errors import DownloadError

SIDE = 224
"""Height and width in pixels of what every network of the zoo takes."""

Pictures = NDArray[np.uint8]
"""[N, SIDE, SIDE, 3] uint8, RGB."""

_PACKAGE = "foolbox==3.3.4"  # 1.7 MB, pure Python: one wheel for every platform
_PHOTOS = {
    "00_243": "28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d",  # dog on grass
    "05_853": "8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131",  # old house
    "12_741": "6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529",  # stained glass
    "18_317": "b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d",  # insect, blur
}


def photos(count: int) -> Pictures:
    """``count`` different crops of four real photos, [count, SIDE, SIDE, 3] uint8, RGB.

    The first four are the photos as an ImageNet evaluation sees them: shrunk to 256, centre cut.
    Raises DownloadError if the package that carries them cannot be had.
    """
    shrunk = []
    for photo, sha256 in _PHOTOS.items():
        path = wheel_file(_PACKAGE, f"foolbox/data/imagenet_{photo}.jpg", sha256)
        with Image.open(path) as image:
            small = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        shrunk.append(np.asarray(small, dtype=np.uint8))
    return np.stack([_crop(shrunk[i % len(shrunk)], i // len(shrunk)) for i in range(count)])


def drawings(count: int) -> Pictures:
    """``count`` different drawn landscapes, [count, SIDE, SIDE, 3] uint8, RGB, with no network."""
    return np.stack([_drawing(np.random.default_rng(seed)) for seed in range(count)])


def wheel_file(requirement: str, member: str, sha256: str) -> Path:
    """Path of the cached copy of one file out of a package's wheel, downloaded if need be.

    ``requirement`` pins a version, ``name==version``. The package is not installed and none of
    its code runs. A cached copy that has lost its digest is fetched again.
    """
    path = Path(platformdirs.user_cache_dir("tvmconv"), "zoo", requirement, Path(member).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists() and _sha256(path.read_bytes()) == sha256:
            return path
        data = _from_wheel(requirement, member)
        if (found := _sha256(data)) != sha256:
            raise DownloadError(
                f"{requirement}: '{member}' is not the file this project was written against",
                note=f"its SHA-256 is {found}, expected {sha256}",
                hint="the package index in use may carry another build of the package",
            )
        # Written beside and then renamed: a run that is killed leaves no half a file.
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(data)
        os.replace(part, path)
    return path


def _from_wheel(requirement: str, member: str) -> bytes:
    """Let this interpreter's pip download the wheel, and read one file out of it."""
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
                return archive.read(member)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DownloadError(f"{requirement}: no file '{member}'", note=str(error)) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _crop(picture: Pictures, variant: int) -> Pictures:
    """[H, W, 3] -> [SIDE, SIDE, 3]: variant 0 the centre, others elsewhere, odd ones mirrored."""
    room = np.array(picture.shape[:2]) - SIDE
    top, left = room // 2
    if variant:
        top, left = np.random.default_rng(variant).integers(0, room, endpoint=True)
    window = picture[top : top + SIDE, left : left + SIDE]
    return window[:, ::-1] if variant % 2 else window


def _drawing(rng: np.random.Generator) -> Pictures:
    """[SIDE, SIDE, 3]: a sky above a ground, discs and boxes before them, texture over it all."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    horizon = rng.uniform(0.3, 0.7)
    sky, ground = rng.uniform(0.4, 0.9, 3), rng.uniform(0.1, 0.6, 3)
    image = np.where((y < horizon)[..., None], sky, ground) + 0.3 * (y - horizon)[..., None]
    for shape in rng.permutation(["disc", "box"] * 4):
        (at_y, at_x), half = rng.uniform(0.0, 1.0, 2), rng.uniform(0.05, 0.2)
        colour, shade = rng.uniform(0.0, 1.0, 3), rng.uniform(-2.0, 2.0)
        dy, dx = y - at_y, x - at_x
        distance = np.hypot(dy, dx) if shape == "disc" else np.maximum(abs(dy), abs(dx))
        image = np.where((distance < half)[..., None], colour + shade * dx[..., None], image)
    # One texture for all colours and a weaker one for each: in photos colours move together.
    own = np.stack([_texture(rng) for _ in range(3)], axis=-1)
    image += 0.08 * _texture(rng)[..., None] + 0.02 * own
    return np.asarray(255 * np.clip(image, 0.0, 1.0), np.uint8)


def _texture(rng: np.random.Generator) -> NDArray[np.float64]:
    """[SIDE, SIDE] noise of mean 0 and deviation 1 whose amplitude falls as 1/frequency."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) / frequency, (SIDE, SIDE))
    return np.asarray(noise / noise.std(), np.float64)
