"""Real pictures from packages, as inputs of networks.

Noise is a bad input: a trained network answers near zero to it, so that a relative error is
meaningless.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.zoo.fetch import wheel_files

Pictures = NDArray[np.uint8]
"""[N, H, W, 3] uint8, RGB."""
SIDE = 224
"""Height and width in pixels of photos and drawings."""
PAGE = (320, 640)
"""Height and width of a page of text."""
LINE = (48, 320)
"""Height and width of a line of text."""
TABLE_SIDE = 768
"""Height and width of a table."""
PORTRAIT_SIDE = 320
"""Height and width of a picture of a person."""

_PACKAGE = "foolbox==3.3.4"  # 1.7 MB, pure Python: one wheel for every platform
_IMAGENET = {  # number and class of ImageNet's 1000, as in the file's name
    "00_243": "28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d",
    "01_559": "5f03b0c74dff01b5b4195d0beabcae2a625a406e6917957ab9c455b5b7dea6d6",
    "02_438": "ccef0734c1a65549c6cb5adb0f5d9b1c0b2e2104aba50a9e5f9202dc6d4532ed",
    "03_990": "c7f0b2f1e9ee39d8f900759e8983afa2e4a2d7de090060e8bb947f6e90cace5f",
    "04_949": "a7f62f3c1d214de4718c7253871ab38209283249e131faf65b8f2b7fdc970669",
    "05_853": "8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131",
    "06_609": "fb061102a4e58b3ed942bb2a4f9542e1e1acdc8f225ef95498e93889290e192f",
    "07_609": "2c297ad1e5c4804a647e9b34bc02ee2fc348b05a4d49050d170fb61c948efa5c",
    "08_915": "c6a3411a3987799f0de45adc142f00ca412c3e14073c635e2adfae1f3913180c",
    "09_455": "ace3716b60ac5843269b270e17020e4f8138440cd30ef3487f7d6e54da9745a4",
    "10_541": "f325c71d9f4290ee45e99bd7ad42f4bffe513b1450ad21e7bd61c7cb137395d9",
    "11_630": "892dff58fc528fe63d2df0c783aa3eca2342637798578ce01763fbc0553eda01",
    "12_741": "6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529",
    "13_471": "52ed0e738b90d27afcabc3e92c81ae637f160c2d9f75b93a65211005ab5dcd81",
    "14_129": "ad9371d813bf24b0365ee2f78f28c08718ee7c5975f060caa16c3f264e828139",
    "15_99": "4b588649cd835d4c65521727ebee03d9621baff1f54d3e8a53a26b53d983ec2e",
    "16_251": "ce3440a3b7beb6ca3009817504c44d39fa789e7c2f70a2eef7e2f9cc9a87b129",
    "17_22": "b432341845620e9cfd67d848c4783c32dd6eaddad45513866b17180d2b09fcf5",
    "18_317": "b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d",
    "19_305": "e1f58f00e2e47ce930d7ecab0e46a78316054f68c10d0742e87c1cc092324556",
}
_CROPPED = ("00_243", "05_853", "12_741", "18_317")  # dog, house, stained glass, blurred insect
_SCIKIT_IMAGE = "scikit-image==0.25.2"
_ASTRONAUT_PNG = "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"
_PAGE_PNG = "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3"
_FACE = (164, 58, 284, 178)  # left, top, right, bottom: the astronaut's
_WORDS = ((2, 8, 146, 36), (148, 8, 296, 36), (2, 46, 86, 64), (88, 48, 224, 65), (89, 66, 216, 82))


def photos(count: int) -> Pictures:
    """Returns different crops of four real photos, [count, SIDE, SIDE, 3] uint8, RGB.

    The first four are prepared as in an evaluation on ImageNet: shrunk to 256, centre cut. Raises
    `DownloadError` if the package cannot be downloaded, as all functions here do.
    """
    return _crops(_CROPPED, count)


def others(count: int) -> Pictures:
    """Returns pictures as `photos` does, of sixteen photos that it does not crop."""
    names = tuple(name for name in _IMAGENET if name not in _CROPPED)
    return _crops(names, count)


def halves(count: int) -> tuple[Pictures, Pictures]:
    """Returns ``count`` crops of each half of the twenty photos: to calibrate with, and to test.

    Those of `photos` are in the second half.
    """
    tested = (*_CROPPED, *(name for name in _IMAGENET if name not in _CROPPED))[:10]
    return _crops(tuple(n for n in _IMAGENET if n not in tested), count), _crops(tested, count)


def labelled() -> dict[str, tuple[Pictures, int]]:
    """Returns twenty photos by name, [SIDE, SIDE, 3] uint8 RGB, with ImageNet classes.

    Prepared as by EfficientNet's authors: shrunk to 256 by bicubic interpolation, centre cut.
    """
    found = {}
    for name, path in zip(_IMAGENET, _imagenet(tuple(_IMAGENET)), strict=True):
        found[name] = _crop(_shrunk(path, Image.Resampling.BICUBIC), 0), int(name.split("_")[1])
    return found


def portraits(count: int) -> Pictures:
    """Returns ``count`` crops around a face, [count, PORTRAIT_SIDE, PORTRAIT_SIDE, 3] uint8."""
    return _around_face(count, PORTRAIT_SIDE, room=120)


def faces(count: int) -> Pictures:
    """Returns ``count`` faces as a detector's first stage crops them, [count, 24, 24, 3] uint8."""
    return _around_face(count, 24, room=8)


def pages(count: int) -> Pictures:
    """Returns ``count`` crops of a photographed page of text, [count, *PAGE, 3] uint8."""
    with Image.open(_scikit_image("page.png", _PAGE_PNG)) as image:
        page, (width, height) = image.convert("RGB"), image.size
    sheets = []
    for index in range(count):
        left, top, right, bottom = np.random.default_rng(index).integers(0, 24, 4).tolist()
        box = (left, top, width - right, height - bottom) if index else (0, 0, width, height)
        sheets.append(_resized(page.crop(box), *PAGE))
    return np.stack(sheets)


def lines(count: int) -> Pictures:
    """Returns ``count`` different crops of words from that page, [count, *LINE, 3] uint8.

    The first reads "Region-based". The space to the right of the text is grey.
    """
    with Image.open(_scikit_image("page.png", _PAGE_PNG)) as image:
        page = image.convert("RGB")
    pictures = np.full((count, *LINE, 3), 128, np.uint8)
    for index, picture in enumerate(pictures):
        left, top, right, bottom = _WORDS[index % len(_WORDS)]
        repeat = index // len(_WORDS)
        word = page.crop((max(left - repeat, 0), top, right + repeat, bottom))
        width = min(round(LINE[0] * word.width / word.height), LINE[1])
        picture[:, :width] = _resized(word, LINE[0], width)
    return pictures


def resized(pictures: Pictures, height: int, width: int) -> Pictures:
    """Returns [N, height, width, 3] of [N, any, any, 3], bilinear, averaged when shrunk."""
    return np.stack([_resized(Image.fromarray(picture), height, width) for picture in pictures])


def _resized(image: Image.Image, height: int, width: int) -> Pictures:
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.uint8)


def _crops(names: tuple[str, ...], count: int) -> Pictures:
    """Returns [count, SIDE, SIDE, 3]: first each photo's centre, then other crops."""
    shrunk = [_shrunk(path, Image.Resampling.BILINEAR) for path in _imagenet(names)]
    return np.stack([_crop(shrunk[i % len(shrunk)], i // len(shrunk)) for i in range(count)])


def _imagenet(names: tuple[str, ...]) -> list[Path]:
    members = {f"foolbox/data/imagenet_{name}.jpg": _IMAGENET[name] for name in names}
    return wheel_files(_PACKAGE, members)


def _scikit_image(name: str, sha256: str) -> Path:
    (path,) = wheel_files(_SCIKIT_IMAGE, {f"skimage/data/{name}": sha256})
    return path


def _shrunk(path: Path, filtered: Image.Resampling) -> Pictures:
    """Returns a photo as [256, 256, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((256, 256), filtered), np.uint8)


def _crop(picture: Pictures, variant: int) -> Pictures:
    """Returns [SIDE, SIDE, 3]: the centre for variant 0, else random, mirrored if odd."""
    room = np.array(picture.shape[:2]) - SIDE
    top, left = room // 2
    if variant:
        top, left = np.random.default_rng(variant).integers(0, room, endpoint=True)
    window = picture[top : top + SIDE, left : left + SIDE]
    return window[:, ::-1] if variant % 2 else window


def _around_face(count: int, side: int, room: int) -> Pictures:
    """Returns [count, side, side, 3]: squares with ``room`` pixels around the face."""
    with Image.open(_scikit_image("astronaut.png", _ASTRONAUT_PNG)) as image:
        photo = image.convert("RGB")
    left, top, right, _ = _FACE
    found = []
    for index in range(count):
        shift = np.random.default_rng(index).integers(-room // 2, room // 2, 2, endpoint=True)
        x, y = max(left - room + int(shift[0]), 0), max(top - room + int(shift[1]), 0)
        width = right - left + 2 * room
        picture = _resized(photo.crop((x, y, x + width, y + width)), side, side)
        found.append(picture[:, ::-1] if index % 2 else picture)
    return np.stack(found)
