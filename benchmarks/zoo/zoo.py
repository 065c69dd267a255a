"""The networks that tests and benchmarks run: trained ones from packages, and seeded ones.

    model = zoo.load("resnet50")
    feeds = zoo.feeds("resnet50", batch=8)                     # real pictures
    feeds = zoo.feeds("resnet50", batch=8, pictures=drawings)  # drawn ones, without a download
    feeds = zoo.calibration("resnet50", 16)                    # others, to quantise with

Generated networks follow torchvision's architecture tables, light ones come without weights from
the onnx package. Both have seeded weights: shapes and work are the real ones, the answers are
meaningless. `strip` and `reseed` make a network of the same shape without the trained weights.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.zoo.convnext import CONVNEXT
from benchmarks.zoo.drawings import drawings
from benchmarks.zoo.efficientnet_b0 import EFFICIENTNET
from benchmarks.zoo.generated import GENERATED
from benchmarks.zoo.light import LIGHT
from benchmarks.zoo.model import Source, ZooModel
from benchmarks.zoo.photos import Pictures, halves, labelled, others, photos
from benchmarks.zoo.trained import TRAINED
from benchmarks.zoo.weights import reseed, strip
from tvmconv.errors import TvmconvError

__all__ = [
    "ZOO",
    "Pictures",
    "ZooModel",
    "apart",
    "calibration",
    "drawings",
    "feeds",
    "halves",
    "labelled",
    "load",
    "names",
    "photos",
    "reseed",
    "strip",
]

ZOO: tuple[ZooModel, ...] = (*GENERATED, CONVNEXT, EFFICIENTNET, *TRAINED, *LIGHT)


def names() -> tuple[str, ...]:
    """Returns the names that `load` and `feeds` know."""
    return tuple(entry.name for entry in ZOO)


def load(name: str) -> onnx.ModelProto:
    """Returns the network as an ONNX model, with only its batch size open.

    The same every time; weights that `reseed` scales are the same up to rounding. Raises
    `TvmconvError` for an unknown name, `DownloadError` if a package cannot be downloaded.
    """
    return _entry(name).make()


def feeds(name: str, batch: int = 1, pictures: Source = photos) -> dict[str, NDArray[np.float32]]:
    """Returns the input by name: ``batch`` different pictures, prepared as in training.

    pictures: `photos` or `drawings`, each replaced by pictures of the network's own domain, such as
    faces or text; or another source, of the size that the network prepares. Raises `DownloadError`
    if photos cannot be downloaded; drawings never replace them silently.
    """
    entry = _entry(name)
    own: dict[Source, Source] = {photos: entry.photos, drawings: entry.drawings}
    return {entry.input_name: entry.prepare(own.get(pictures, pictures)(batch))}


def calibration(
    name: str, count: int, batch: int = 1, pictures: Source = photos, *, besides: int = 0
) -> list[dict[str, NDArray[np.float32]]]:
    """Returns ``count`` feeds of ``batch`` pictures to quantise the network with.

    None of them is among ``feeds(name, besides, pictures)``. They are of other photos than
    `photos` crops; of drawings, and where a network has pictures of its own domain, which are few,
    the ones that follow: other drawings, or other crops of the same text or face.
    """
    entry = _entry(name)
    if pictures is photos and entry.photos is photos:
        given = others(count * batch)
    else:
        own: dict[Source, Source] = {photos: entry.photos, drawings: entry.drawings}
        given = own.get(pictures, pictures)(besides + count * batch)[besides:]
    prepared = entry.prepare(given)
    return [{entry.input_name: prepared[at : at + batch]} for at in range(0, count * batch, batch)]


def apart(
    name: str, calibrated: int, tested: int
) -> tuple[list[dict[str, NDArray[np.float32]]], list[dict[str, NDArray[np.float32]]]]:
    """Returns feeds of one picture each: to calibrate with, and others to test on.

    Of different photos by `halves`; of networks with pictures of their own domain, other drawings,
    or other crops. Raises as `feeds` does.
    """
    entry = _entry(name)
    if entry.photos is photos:
        first, second = halves(max(calibrated, tested))
        given = (first[:calibrated], second[:tested])
    else:
        pictures = entry.photos(tested + calibrated)
        given = (pictures[tested:], pictures[:tested])
    found = ([{entry.input_name: entry.prepare(one[None])} for one in part] for part in given)
    first_part, second_part = found
    return first_part, second_part


def _entry(name: str) -> ZooModel:
    for entry in ZOO:
        if entry.name == name:
            return entry
    raise TvmconvError(f"there is no network '{name}' in the zoo", hint=f"use {', '.join(names())}")
