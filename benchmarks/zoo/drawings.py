"""Pictures drawn by this program, as inputs of networks without a download.

Landscapes have the properties of photos: smooth areas, edges, and detail whose amplitude falls as
1/f. A text detector answers near zero to them, as any network does to noise, so it gets text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.zoo.photos import LINE, PAGE, SIDE, TABLE_SIDE, Pictures

_WORDS = (
    *("kernel", "tensor", "filter", "stride", "matrix", "groups", "padding", "channel"),
    *("warp", "tile", "batch", "layout", "weight", "epilogue", "schedule", "residual"),
)


def drawings(count: int) -> Pictures:
    """Returns ``count`` different landscapes, [count, SIDE, SIDE, 3] uint8, RGB."""
    return np.stack([_drawing(np.random.default_rng(seed)) for seed in range(count)])


def drawn_pages(count: int) -> Pictures:
    """Returns ``count`` different pages of text, dark on light, [count, *PAGE, 3] uint8."""
    return np.stack([_page(np.random.default_rng(seed)) for seed in range(count)])


def drawn_lines(count: int) -> Pictures:
    """Returns ``count`` different short lines of text, [count, *LINE, 3] uint8. See `line_text`."""
    pictures = []
    for index in range(count):
        image, draw = _paper(LINE)
        draw.text((8, 4), line_text(index), fill=(20, 20, 20), font=ImageFont.load_default(32))
        pictures.append(np.asarray(image, np.uint8))
    return np.stack(pictures)


def line_text(index: int) -> str:
    """Returns the text of line ``index`` of `drawn_lines`: a word and a number."""
    return f"{_WORDS[index % len(_WORDS)]} {16 + index}"


def drawn_tables(count: int) -> Pictures:
    """Returns different tables without rules, [count, TABLE_SIDE, TABLE_SIDE, 3] uint8."""
    return np.stack([_table(np.random.default_rng(seed)) for seed in range(count)])


def drawn_cells(count: int) -> Pictures:
    """Returns different faint tables of 4 cells, [count, TABLE_SIDE, TABLE_SIDE, 3] uint8.

    For lore_detect: with more cells, as on photos or pages, its activations exceed the largest fp16
    number.
    """
    return np.stack([_cells(np.random.default_rng(seed)) for seed in range(count)])


def _paper(size: Sequence[int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Returns a light sheet of (height, width) pixels, and its drawing context."""
    image = Image.new("RGB", (size[1], size[0]), (244, 243, 238))
    return image, ImageDraw.Draw(image)


def _page(rng: np.random.Generator) -> Pictures:
    image, draw = _paper(PAGE)
    font = ImageFont.load_default(20)
    for top in range(16, PAGE[0] - 24, 34):
        words = " ".join(rng.permutation(_WORDS)[: rng.integers(4, 8)])
        draw.text((int(rng.integers(10, 40)), top), words, fill=(25, 25, 30), font=font)
    return np.asarray(image, np.uint8)


def _table(rng: np.random.Generator) -> Pictures:
    """Returns a table with a head, a rule under it, and columns of words and numbers."""
    image, draw = _paper((TABLE_SIDE, TABLE_SIDE))
    columns, row = int(rng.integers(3, 6)), int(rng.integers(44, 64))
    for top in range(30, TABLE_SIDE - row, row):
        font = ImageFont.load_default(26 if top == 30 else 22)
        for column in range(columns):
            number = top > 30 and column > 0
            text = f"{rng.uniform(0, 100):.2f}" if number else str(rng.choice(_WORDS))
            left = 30 + column * (TABLE_SIDE - 60) // columns
            draw.text((left, top), text, fill=(20, 20, 25), font=font)
    draw.line((24, 26 + row, TABLE_SIDE - 24, 26 + row), fill=(60, 60, 60), width=2)
    return np.asarray(image, np.uint8)


def _cells(rng: np.random.Generator) -> Pictures:
    image = Image.new("RGB", (TABLE_SIDE, TABLE_SIDE), (255, 255, 255))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    for top in (108, 392):
        for left in (110, 394):
            draw.text((left, top), f"{rng.uniform(0, 100):.1f}", fill=(235,) * 3, font=font)
    return np.asarray(image, np.uint8)


def _drawing(rng: np.random.Generator) -> Pictures:
    """Returns [SIDE, SIDE, 3]: sky, ground, discs and boxes, and texture over all."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    horizon = rng.uniform(0.3, 0.7)
    sky, ground = rng.uniform(0.4, 0.9, 3), rng.uniform(0.1, 0.6, 3)
    image = np.where((y < horizon)[..., None], sky, ground) + 0.3 * (y - horizon)[..., None]
    for shape in rng.permutation(["disc", "box"] * 4):
        (at_y, at_x), half = rng.uniform(0.0, 1.0, 2), rng.uniform(0.05, 0.2)
        colour, shade = rng.uniform(0.0, 1.0, 3), rng.uniform(-2.0, 2.0)
        dy, dx = y - at_y, x - at_x
        distance = np.hypot(dy, dx) if shape == "disc" else np.maximum(abs(dy), abs(dx))
        image = np.where((distance < half)[..., None], colour + shade * dx[..., None], image)
    # One texture for all colours and a weaker one for each: in photos colours are correlated.
    own = np.stack([_texture(rng) for _ in range(3)], axis=-1)
    image += 0.08 * _texture(rng)[..., None] + 0.02 * own
    return np.asarray(255 * np.clip(image, 0.0, 1.0), np.uint8)


def _texture(rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns [SIDE, SIDE] noise of mean 0 and deviation 1 whose amplitude falls as 1/frequency."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) / frequency, (SIDE, SIDE))
    return np.asarray(noise / noise.std(), np.float64)
