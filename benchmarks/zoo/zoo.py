"""The networks that tests and benchmarks run: trained ones out of packages, and seeded ones.

    model = zoo.load("resnet50")
    feeds = zoo.feeds("resnet50", batch=8)                     # of real pictures
    feeds = zoo.feeds("resnet50", batch=8, pictures=drawings)  # of drawn ones: no network needed

Generated networks follow torchvision's architecture tables with seeded weights, light ones come
without weights out of the onnx package: the shapes and the work of both are the real ones, the
answers mean nothing. Where trained weights cannot go, `strip` and `reseed` make a network of the
same shape.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.zoo.drawings import drawings
from benchmarks.zoo.generated import GENERATED
from benchmarks.zoo.light import LIGHT
from benchmarks.zoo.model import Source, ZooModel
from benchmarks.zoo.photos import Pictures, labelled, photos
from benchmarks.zoo.trained import TRAINED
from benchmarks.zoo.weights import reseed, strip
from tvmconv.errors import TvmconvError

__all__ = [
    "ZOO",
    "Pictures",
    "ZooModel",
    "drawings",
    "feeds",
    "labelled",
    "load",
    "names",
    "photos",
    "reseed",
    "strip",
]

ZOO: tuple[ZooModel, ...] = (*GENERATED, *TRAINED, *LIGHT)


def names() -> tuple[str, ...]:
    """The names that `load` and `feeds` know."""
    return tuple(entry.name for entry in ZOO)


def load(name: str) -> onnx.ModelProto:
    """The network as an ONNX model with its batch size, and nothing else, left open.

    The same every time; weights that are scaled by what they give (see `reseed`) up to rounding.
    Raises TvmconvError for an unknown name, DownloadError where a package cannot be had.
    """
    return _entry(name).make()


def feeds(name: str, batch: int = 1, pictures: Source = photos) -> dict[str, NDArray[np.float32]]:
    """The network's input by name: ``batch`` different pictures, prepared as it was trained on.

    ``pictures`` is `photos` or `drawings`, which stand for pictures of what the network knows, be
    it faces or text; or a source of one's own, of the size that the network prepares. None stands
    in for another: where the photos cannot be had, DownloadError is raised.
    """
    entry = _entry(name)
    own: dict[Source, Source] = {photos: entry.photos, drawings: entry.drawings}
    return {entry.input_name: entry.prepare(own.get(pictures, pictures)(batch))}


def _entry(name: str) -> ZooModel:
    for entry in ZOO:
        if entry.name == name:
            return entry
    raise TvmconvError(f"there is no network '{name}' in the zoo", hint=f"use {', '.join(names())}")
