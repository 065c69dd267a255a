"""Folders of images as feeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tvmconv.errors import FeedError
from tvmconv.images import Preprocessing, image_files, read_images
from tvmconv.specs import TensorSpec

SPEC = TensorSpec("x", (1, 3, 14, 28), "float32")


def test_arrays_are_fed_as_they_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    arrays = np.random.default_rng(0).random((2, 3, 14, 28), np.float32)
    np.save(tmp_path / "b.npy", arrays[0])
    np.save(tmp_path / "a.npy", arrays[1:])  # with the batch
    (tmp_path / "notes.txt").write_text("not an image")
    files = image_files(tmp_path)
    assert [path.name for path in files] == ["a.npy", "b.npy"]
    found = [feeds["x"] for feeds in read_images(tmp_path, [SPEC])]
    assert np.array_equal(np.concatenate(found), arrays[::-1])


def test_a_picture_is_cut_and_scaled(tmp_path: Path) -> None:
    """One colour, but for a frame that is cut off: 16 x 32 becomes 14 x 28."""
    picture = np.full((16, 32, 3), (255, 0, 51), np.uint8)
    picture[0], picture[-1], picture[:, 0], picture[:, -1] = 0, 0, 0, 0
    Image.fromarray(picture).save(tmp_path / "one.png")
    ((name, found),) = next(read_images(tmp_path, [SPEC])).items()
    assert (name, found.shape, found.dtype) == ("x", (1, 3, 14, 28), np.float32)
    colour = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert np.allclose(found[0].reshape(3, -1).T, colour, atol=1e-6)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="is no folder"):
        image_files(tmp_path / "none")
    with pytest.raises(FeedError, match="no images in"):
        image_files(tmp_path)
    for name, spec, said in (
        ("broken.npy", SPEC, "can't be read"),
        ("broken.png", SPEC, "can't be read"),
        ("broken.png", TensorSpec("x", (1, 8), "float32"), r"(?s)takes .1, 8.\n.*as .npy"),
    ):
        folder = tmp_path / f"{name} {len(spec.shape)}"
        folder.mkdir()
        (folder / name).write_text("nonsense")
        with pytest.raises(FeedError, match=said):
            next(read_images(folder, [spec]))
    np.save(tmp_path / "small.npy", np.zeros((3, 4, 4), np.float32))
    with pytest.raises(FeedError, match=r"has the shape \[3, 4, 4\]"):
        next(read_images(tmp_path, [SPEC]))
    with pytest.raises(FeedError, match="one input"):
        read_images(tmp_path, [SPEC, SPEC])


def test_an_archive_feeds_all_inputs(tmp_path: Path) -> None:
    """By their names, with or without the batch."""
    other = TensorSpec("size", (1, 2), "int64")
    picture = np.random.default_rng(0).random((3, 14, 28), np.float32)
    np.savez(tmp_path / "a.npz", x=picture, size=np.array([[14, 28]]))
    (found,) = read_images(tmp_path, [SPEC, other])
    assert np.array_equal(found["x"], picture[None])
    assert found["size"].tolist() == [[14, 28]]
    np.savez(tmp_path / "a.npz", x=picture)
    with pytest.raises(FeedError, match=r"has \['x'\], the network's inputs are \['size', 'x'\]"):
        next(read_images(tmp_path, [SPEC, other]))
    (tmp_path / "a.npz").write_text("nonsense")
    with pytest.raises(FeedError, match="can't be read"):
        next(read_images(tmp_path, [SPEC]))


def test_preprocessing_is_an_option(tmp_path: Path) -> None:
    """NHWC, other colours, and nothing cut off at a ratio of 1."""
    picture = np.random.default_rng(0).integers(0, 255, (14, 28, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "one.png")
    how = Preprocessing(mean=(0.5, 0, 0), std=(1, 2, 1), layout="NHWC", resize=1)
    spec = TensorSpec("x", (1, 14, 28, 3), "float32")
    (found,) = read_images(tmp_path, [spec], how)
    expected = (picture / 255 - [0.5, 0, 0]) / [1, 2, 1]
    assert np.allclose(found["x"][0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mean": (0.5,)}, "mean can't be"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean can't be"),
        ({"std": (1, 0, 1)}, "std can't be"),
        ({"std": (1, 1, float("inf"))}, "std can't be"),
        ({"layout": "HWC"}, "layout can't be 'HWC'"),
        ({"resize": 0.9}, "resize can't be 0.9"),
        ({"resize": float("nan")}, "resize can't be nan"),
    ],
)
def test_preprocessing_that_can_not_be_meant(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FeedError, match=said) as error:
        Preprocessing(**given)
    assert error.value.hint
