"""Trained networks recognise what they are fed: weights, graph and preparation are right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from benchmarks.zoo import drawings as drawn
from benchmarks.zoo import zoo
from tests.support.fetched import downloaded
from tests.support.reference import session, with_all_activations

LARGEST_FP16 = 65504


def outputs_on_photos(name: str, count: int) -> list[np.ndarray]:
    model = downloaded(lambda: zoo.load(name))
    return session(model).run(None, downloaded(lambda: zoo.feeds(name, count)))


def test_efficientnet_lite0_recognises_18_of_20_photos() -> None:
    model = downloaded(lambda: zoo.load("efficientnet_lite0"))
    onnx.checker.check_model(model, full_check=True)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    groups = [a.i for node in convs for a in node.attribute if a.name == "group"]
    assert (groups.count(1), sum(group > 1 for group in groups)) == (33, 16)
    pictures, classes = zip(*zoo.labelled().values(), strict=True)
    assert len(pictures) == 20
    (entry,) = (entry for entry in zoo.ZOO if entry.name == "efficientnet_lite0")
    (logits,) = session(model).run(None, {entry.input_name: entry.prepare(np.stack(pictures))})
    assert (logits.argmax(axis=1) == classes).sum() == 18
    top5 = logits.argsort(axis=1)[:, -5:]
    assert sum(label in five for label, five in zip(classes, top5, strict=True)) == 19


def test_opennsfw_finds_a_dog_and_a_house_safe_for_work() -> None:
    (probabilities,) = outputs_on_photos("opennsfw", 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    # Column 0 is "safe for work". Pixels scaled to 1 would give about 0.75.
    assert (probabilities[:, 0] > 0.99).all(), probabilities


@pytest.mark.slow
def test_lore_detect_finds_the_four_cells_within_fp16() -> None:
    model = downloaded(lambda: zoo.load("lore_detect"))
    whole, inner = with_all_activations(model)
    values = session(whole).run(None, zoo.feeds("lore_detect", 1))
    heat = values[0][0, 0]
    assert (heat > 0).sum() == 4
    for name, value in zip(inner, values[len(model.graph.output) :], strict=True):
        assert np.abs(value).max() < LARGEST_FP16, name


def test_nudenet_finds_a_face() -> None:
    (found,) = outputs_on_photos("nudenet_320n", 1)
    best = found[0, 4:].max(axis=1)  # by class
    assert best.argmax() == 1, "FACE_FEMALE"
    assert best[1] > 0.7


@pytest.mark.parametrize("pictures", [zoo.photos, zoo.drawings], ids=lambda make: make.__name__)
def test_rapidocr_det_finds_the_lines(pictures) -> None:
    model = downloaded(lambda: zoo.load("rapidocr_det"))
    feed = downloaded(lambda: zoo.feeds("rapidocr_det", 1, pictures))
    (probability,) = session(model).run(None, feed)
    text = probability > 0.3
    assert 0.05 < text.mean() < 0.5
    rows = text[0, 0].any(axis=1)
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) >= 5, "lines of text"


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        (zoo.photos, ["Region-based", "segmentation"]),
        (zoo.drawings, [drawn.line_text(0), drawn.line_text(1)]),
    ],
    ids=["photos", "drawings"],
)
def test_rapidocr_rec_reads_the_lines(pictures, expected: list[str]) -> None:
    model = downloaded(lambda: zoo.load("rapidocr_rec"))
    run = session(model)
    characters = run.get_modelmeta().custom_metadata_map["character"].split("\n")
    letters = ["", *characters, " "]  # class 0 parts two letters that are alike
    (scores,) = run.run(None, downloaded(lambda: zoo.feeds("rapidocr_rec", 2, pictures)))
    for picture, line in zip(scores.argmax(axis=2), expected, strict=True):
        changes = np.diff(picture, prepend=0) != 0
        assert "".join(letters[k] for k in picture[changes]) == line


def test_rapidocr_cls_finds_the_lines_upright() -> None:
    model = downloaded(lambda: zoo.load("rapidocr_cls"))
    (feed,) = zoo.feeds("rapidocr_cls", 2, zoo.drawings).values()
    run = session(model).run
    (upright,), (turned,) = (run(None, {"x": x}) for x in (feed, feed[:, :, ::-1, ::-1].copy()))
    assert (upright[:, 0] > 0.9).all()
    assert (turned[:, 1] > 0.9).all()


def test_mtcnn_finds_the_face() -> None:
    _, face = outputs_on_photos("mtcnn_pnet", 1)
    assert face[..., 1].max() > 0.95
    assert (face[..., 1] > 0.6).mean() < 0.2, "and not everywhere"
    _, sure = outputs_on_photos("mtcnn_rnet", 2)
    assert (sure[:, 1] > 0.95).all()
