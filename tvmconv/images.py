"""Reads a folder of images as feeds: arrays unchanged, pictures preprocessed for the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmconv.errors import FeedError
from tvmconv.specs import TensorSpec, as_fed

Array = NDArray[Any]

ARRAYS, PICTURES = (".npy", ".npz"), (".jpg", ".jpeg", ".png")
#: Mean and deviation of ImageNet's colours in torchvision: RGB from 0 to 1.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Ratio of the resized shorter side to the crop, as in torchvision's evaluation.
SHRUNK = 256 / 224
LAYOUTS = ("NCHW", "NHWC")


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to a network's input: (RGB / 255 - mean) / std. Defaults are ImageNet's.

    Raises `FeedError` for values that can't be meant.
    """

    #: Of the colours red, green and blue, which go from 0 to 1.
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = DEVIATION
    #: Order of the input's axes: one of `LAYOUTS`.
    layout: str = "NCHW"
    #: Resized shorter side over the side that is cut out of the middle; 1 cuts nothing but what the
    #: input's shape does.
    resize: float = SHRUNK

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not np.isfinite(values).all():
                raise FeedError(
                    f"{name} can't be {list(values)}", hint="one number for red, green and blue"
                )
        if min(self.std) <= 0:
            raise FeedError(f"std can't be {list(self.std)}", hint="it divides: give it above 0")
        if self.layout not in LAYOUTS:
            raise FeedError(f"layout can't be {self.layout!r}", hint=f"one of {', '.join(LAYOUTS)}")
        if not 1 <= self.resize < np.inf:
            raise FeedError(
                f"resize can't be {self.resize}", hint="1 or more: the crop lies inside the picture"
            )

    def size(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """Returns height and width of an input of batch 1; None if it is no picture's."""
        if len(shape) != 4:
            return None
        height, width, channels = shape[1:] if self.layout == "NHWC" else (*shape[2:], shape[1])
        return (height, width) if channels == 3 else None


IMAGENET = Preprocessing()


def image_files(folder: str | Path) -> tuple[Path, ...]:
    """Images in a folder, in the order of their names. Raises `FeedError` if there are none."""
    folder, suffixes = Path(folder), (*ARRAYS, *PICTURES)
    if not folder.is_dir():
        raise FeedError(f"{folder} is no folder", hint=f"one of {', '.join(suffixes)} files")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not found:
        raise FeedError(
            f"there are no images in {folder}", hint=f"put {', '.join(suffixes)} files there"
        )
    return tuple(found)


def read_images(
    folder: str | Path, inputs: Sequence[TensorSpec], preprocessing: Preprocessing = IMAGENET
) -> Iterator[dict[str, Array]]:
    """Yields the images of a folder, in the order of their names, as feeds of batch 1.

    inputs: of the network. A ``.npz`` holds all of them by their names, with or without the batch
    dimension; a ``.npy`` or a picture feeds a network that has one. A picture is resized, cropped
    at the centre to the input's size, and normalised by ``preprocessing``.

    Raises `FeedError`: at once for a folder without images or a network of several inputs, and
    when an image can't be read or does not fit.
    """
    files = image_files(folder)
    if len(inputs) != 1 and any(path.suffix.lower() != ".npz" for path in files):
        names = ", ".join(spec.name for spec in inputs)
        raise FeedError(
            f"images feed a network of one input, this one has {names}",
            hint="give feeds by name, each in a .npz file with all inputs",
        )
    return (_feeds(path, inputs, preprocessing) for path in files)


def _feeds(
    path: Path, inputs: Sequence[TensorSpec], preprocessing: Preprocessing
) -> dict[str, Array]:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        arrays = _archive(path, inputs)
    elif suffix == ".npy":
        arrays = {inputs[0].name: _array(path)}
    else:
        arrays = {inputs[0].name: _picture(path, inputs[0], preprocessing)}
    return {spec.name: _fitted(path, spec, arrays[spec.name]) for spec in inputs}


def _fitted(path: Path, spec: TensorSpec, array: Array) -> Array:
    if array.shape == spec.shape[1:]:
        array = array[None]
    if array.shape != spec.shape:
        raise FeedError(
            f"{path} has the shape {list(array.shape)}, the network takes {list(spec.shape)}"
        )
    return as_fed(spec, array)


def _array(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise FeedError(f"{path} can't be read", note=str(error)) from error


def _archive(path: Path, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # a damaged archive raises what zipfile does, or AttributeError
        raise FeedError(f"{path} can't be read", note=str(error)) from error
    names = {spec.name for spec in inputs}
    if set(arrays) != names:
        raise FeedError(
            f"{path} has {sorted(arrays)}, the network's inputs are {sorted(names)}",
            hint="numpy.savez(path, **{name: array})",
        )
    return arrays


def _picture(path: Path, spec: TensorSpec, preprocessing: Preprocessing) -> Array:
    """Reads and preprocesses a picture. Returns (1, 3, H, W) float32, or (1, H, W, 3)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise FeedError(
            f"{path} is a picture, and Pillow is not installed",
            hint="pip install 'tvmconv[pictures]'",
        ) from error
    side = preprocessing.size(spec.shape)
    if side is None:
        raise FeedError(
            f"{path} is a picture, the network takes {list(spec.shape)}",
            note=f"pictures have three colours, in {preprocessing.layout}",
            hint="give arrays, as .npy files, or another layout",
        )
    height, width = side
    try:
        with Image.open(path) as image:
            scale = preprocessing.resize * max(height / image.height, width / image.width)
            size = (round(image.width * scale), round(image.height * scale))
            shrunk = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    except (OSError, Image.DecompressionBombError) as error:
        raise FeedError(f"{path} can't be read", note=str(error)) from error
    left, top = (shrunk.width - width) // 2, (shrunk.height - height) // 2
    cut = np.asarray(shrunk.crop((left, top, left + width, top + height)), np.float32) / 255
    mean, std = (np.array(one, np.float32) for one in (preprocessing.mean, preprocessing.std))
    scaled = ((cut - mean) / std)[None]
    return scaled if preprocessing.layout == "NHWC" else scaled.transpose(0, 3, 1, 2)
