"""RoiAlign in every form, against onnxruntime: regions inside, across and outside of the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tvmconv
from tests.support import cuda_text
from tests.support.models import Graph, random_feed
from tests.support.reference import session
from tests.support.thinned import thinned

#: In the coordinates of an image twice as large. The last are a point, and one that is turned over.
REGIONS = np.array(
    [[0, 0, 14, 14], [2, 3, 13, 12.5], [-3, -2, 5, 4], [30, 1, 40, 9], [5, 5, 5, 5], [9, 9, 4, 4]],
    "f",
)
IMAGES = np.array([0, 1, 0, 1, 1, 0])


def model(opset: int = 16, **attributes: Any) -> onnx.ModelProto:
    g = Graph([2, 3, 8, 9])
    g.inputs.append(helper.make_tensor_value_info("regions", TensorProto.FLOAT, REGIONS.shape))
    g.inputs.append(helper.make_tensor_value_info("images", TensorProto.INT64, IMAGES.shape))
    x = g.op("RoiAlign", "input", "regions", "images", **attributes)
    return g.model(x, opset=opset)


def feeds() -> dict[str, Any]:
    return {**random_feed([2, 3, 8, 9]), "regions": REGIONS, "images": IMAGES}


BINS = {"output_height": 3, "output_width": 2}


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("coordinates", thinned(["half_pixel", "output_half_pixel", None], 3))
def test_every_form(mode: str, coordinates: str | None) -> None:
    """None: opset 10, which has no coordinates."""
    how = {"coordinate_transformation_mode": coordinates} if coordinates else {}
    for scale, ratio in ((0.5, 2), (0.3, 0), (1.0, 1)):
        proto = model(
            16 if coordinates else 10,
            mode=mode,
            spatial_scale=scale,
            sampling_ratio=ratio,
            **BINS,
            **how,
        )
        given = tvmconv.build(proto, target="llvm").run(feeds())
        (expected,) = session(proto).run(None, feeds())
        (got,) = given.values()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_defaults_by_opset() -> None:
    for opset in (10, 16):
        proto = model(opset)
        (got,) = tvmconv.build(proto, target="llvm").run(feeds()).values()
        np.testing.assert_allclose(got, session(proto).run(None, feeds())[0], rtol=1e-5, atol=1e-6)


def test_between_convolutions_that_are_channels_last() -> None:
    g = Graph([2, 3, 8, 9])
    regions, images = g.constant(REGIONS[:2]), g.constant(IMAGES[:2])
    x = g.op("RoiAlign", g.conv("input", 3, 8), regions, images, spatial_scale=0.5, **BINS)
    proto = g.model(g.conv(x, 8, 8))
    exe = tvmconv.build(proto, target="llvm")
    assert tvmconv.compare(proto, exe).relative_l2 <= 5e-3


@pytest.mark.parametrize("ratio", [0, 2])
def test_it_is_scheduled_for_cuda(ratio: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = cuda_text.without_compiler(monkeypatch)
    tvmconv.build(model(sampling_ratio=ratio, **BINS), target="cuda", arch="sm_90a")
    assert "roi_align_kernel" in texts[0]
