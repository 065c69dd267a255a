"""Reads a folder of images as feeds: arrays unchanged, pictures preprocessed for ImageNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmconv.errors import FeedError
from tvmconv.specs import TensorSpec

Array = NDArray[Any]

ARRAYS, PICTURES = (".npy",), (".jpg", ".jpeg", ".png")
#: Mean and deviation of ImageNet's colours in torchvision: RGB from 0 to 1.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Ratio of the resized shorter side to the crop, as in torchvision's evaluation.
SHRUNK = 256 / 224


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


def read_images(folder: str | Path, inputs: Sequence[TensorSpec]) -> Iterator[dict[str, Array]]:
    """Yields the images of a folder, in the order of their names, as feeds of batch 1.

    inputs: of the network, which must have one. A ``.npy`` holds the input, with or without the
    batch dimension. A picture is resized, cropped at the centre to the input's size, and normalised
    by ImageNet's mean and deviation; for other preprocessing, give arrays.

    Raises `FeedError`: at once for a folder without images or a network of several inputs, and
    when an image can't be read or does not fit.
    """
    files = image_files(folder)
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise FeedError(
            f"images feed a network of one input, this one has {names}",
            hint="give feeds by name",
        )
    return (_feeds(path, inputs[0]) for path in files)


def _feeds(path: Path, spec: TensorSpec) -> dict[str, Array]:
    array = _array(path) if path.suffix.lower() in ARRAYS else _picture(path, spec)
    if array.shape == spec.shape[1:]:
        array = array[None]
    if array.shape != spec.shape:
        raise FeedError(
            f"{path} has the shape {list(array.shape)}, the network takes {list(spec.shape)}"
        )
    return {spec.name: np.ascontiguousarray(array, spec.dtype)}


def _array(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise FeedError(f"{path} can't be read", note=str(error)) from error


def _picture(path: Path, spec: TensorSpec) -> Array:
    """Reads and preprocesses a picture. Returns (1, 3, H, W) float32."""
    try:
        from PIL import Image
    except ImportError as error:
        raise FeedError(
            f"{path} is a picture, and Pillow is not installed",
            hint="pip install 'tvmconv[pictures]'",
        ) from error
    if len(spec.shape) != 4 or spec.shape[1] != 3:
        raise FeedError(
            f"{path} is a picture, the network takes {list(spec.shape)}",
            hint="give arrays, as .npy files",
        )
    height, width = spec.shape[2:]
    try:
        with Image.open(path) as image:
            scale = SHRUNK * max(height / image.height, width / image.width)
            size = (round(image.width * scale), round(image.height * scale))
            shrunk = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    except OSError as error:
        raise FeedError(f"{path} can't be read", note=str(error)) from error
    left, top = (shrunk.width - width) // 2, (shrunk.height - height) // 2
    cut = np.asarray(shrunk.crop((left, top, left + width, top + height)), np.float32) / 255
    scaled = (cut - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return scaled.transpose(2, 0, 1)[None]
