"""How a tensor core adds: one sum, bit by bit, and what each arithmetic makes of it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from docs.draw.svg import Picture
from intrinsics.numerics import arithmetic as numerics
from intrinsics.numerics.arithmetic import A100, EXACT, H100, IEEE, V100, Numerics

#: Four products and an accumulator that are told apart by every arithmetic but two. fp16 and fp32.
A = np.array([165 * 2.0**-10, 403 * 2.0**-14, -209 * 2.0**-14, 19 * 2.0**-13], np.float16)
B = np.array([1159 * 2.0**-14, 345 * 2.0**-14, 2.0**-8, 239 * 2.0**-16], np.float16)
C = np.float32(1)
#: Bits after the point of an fp32 number of size 1.
FRACTION = 23

FIRST, LAST = 0, -30  # exponents of the columns
LEFT, WIDE, HIGH = 236, 24, 26
KEPT, DROPPED = "#8fd0c9", "#f2a9a0"


def terms() -> list[tuple[Fraction, int]]:
    """The accumulator and the products: their values, and the exponents they are aligned by."""
    found = [(Fraction(float(C)), math.frexp(C)[1] - 1)]
    for x, y in zip(A.tolist(), B.tolist(), strict=True):
        found.append((Fraction(x) * Fraction(y), math.frexp(x)[1] + math.frexp(y)[1] - 2))
    return found


def quantum(how: Numerics) -> Fraction:
    """The last bit that is kept when the terms are aligned."""
    return Fraction(2) ** (max(exponent for _, exponent in terms()) - FRACTION - how.extra_bits)


def kept(how: Numerics) -> list[Fraction]:
    """What is left of each term."""
    unit = quantum(how)
    return [math.trunc(value / unit) * unit for value, _ in terms()]


def answer(how: Numerics) -> Fraction:
    """What `numerics.fused` makes of it."""
    return Fraction(float(numerics.fused(A, B, np.asarray(C), how)))


def sums() -> str:
    picture = Picture(LEFT + (FIRST - LAST + 1) * WIDE + 40, 570, "How a tensor core adds")
    picture.text(24, 34, "One sum: an accumulator and four products", "ink bold", 20)
    words = (
        "Products are exact. All terms are aligned to the largest exponent; what then lies to the "
        "right of a chip's line is dropped, of each term on its own",
        "(red: what a V100 drops). The rest is added exactly, and what does not fit fp32 is "
        "dropped in the end: no sum is rounded to nearest.",
    )
    for i, line in enumerate(words):
        picture.text(24, 62 + 18 * i, line, "soft")
    top = 126.0
    _header(picture, top)
    factors = [("c", f"{C:g}")] + [
        (f"a{i} b{i}", f"{x:.4g} x {y:.4g}")
        for i, (x, y) in enumerate(zip(A.tolist(), B.tolist(), strict=True))
    ]
    for i, ((name, text), (value, _)) in enumerate(zip(factors, terms(), strict=True)):
        _row(picture, top + i * (HIGH + 5), name, text, value, quantum(V100))
    y = top + 5 * (HIGH + 5) + 8
    picture.line(24, y - 6, LEFT + (FIRST - LAST + 1) * WIDE, y - 6, "rule", 1)
    total = sum((value for value, _ in terms()), Fraction(0))
    _row(picture, y, "sum", "without loss", total, Fraction(0))
    left = sum(kept(V100), Fraction(0))
    _row(picture, y + HIGH + 5, "v100", "of what is kept", left, Fraction(0))
    bottom = y + 2 * HIGH + 5
    for how, kind, shift in ((V100, "end", -4), (A100, "middle", 0), (H100, "", 4)):
        x, low = _line(how), bottom + (18 if kind == "middle" else 6)
        picture.line(x, top - 2, x, low, "cut", 2)
        picture.text(x + shift, low + 6, how.name, f"alarm bold {kind}", 11)
    _answers(picture, bottom + 54)
    return str(picture)


def _header(picture: Picture, top: float) -> None:
    for exponent in range(FIRST, LAST - 1, -1):
        if exponent % 4 == 0:
            x = LEFT + (FIRST - exponent + 0.5) * WIDE
            picture.text(x, top - 10, f"{exponent}", "soft middle", 10)
    picture.text(LEFT - 12, top - 10, "bit: 2 to the", "soft end", 10)


def _row(picture: Picture, y: float, name: str, text: str, value: Fraction, unit: Fraction) -> None:
    """The bits of a term's size, from its first on; those below ``unit`` are dropped."""
    picture.text(24, y + HIGH / 2, name, "ink bold", 13)
    picture.text(LEFT - 24, y + HIGH / 2, text, "soft end", 11)
    if value < 0:
        picture.text(LEFT - 10, y + HIGH / 2, "-", "ink bold middle", 16)
    for exponent in range(FIRST, LAST - 1, -1):
        bit = Fraction(2) ** exponent
        x = LEFT + (FIRST - exponent) * WIDE
        if abs(value) < bit or abs(value) % (2 * bit) == 0:  # above its first one, below its last
            picture.rect(x + 1, y, WIDE - 2, HIGH, "empty")
        else:
            one = int(abs(value) / bit) % 2
            fill = (DROPPED if bit < unit else KEPT) if one else "pale"
            picture.rect(x + 1, y, WIDE - 2, HIGH, fill)
            kind = "dark bold" if one else "soft"
            picture.text(x + WIDE / 2, y + HIGH / 2, str(one), f"mono {kind} middle", 12)


def _line(how: Numerics) -> float:
    """Where it is drawn: right of the last bit that is kept."""
    return LEFT + (FIRST - math.log2(quantum(how)) + 1) * WIDE


def _answers(picture: Picture, y: float) -> None:
    """A row for each arithmetic: the answer in units of the last bit, and how far it is off."""
    unit = Fraction(2) ** -FRACTION
    rows = (
        (EXACT, "no loss, rounded to nearest once"),
        (IEEE, "fp32: product after product, rounded to nearest each time"),
        (V100, f"{V100.block} products and the accumulator at once, no extra bits"),
        (A100, f"{A100.block} at once, one extra bit"),
        (H100, f"{H100.block} at once, two extra bits"),
    )
    picture.text(LEFT - 24, y, "arithmetic", "soft end", 11)
    picture.text(LEFT, y, "how it adds", "soft", 11)
    picture.text(740, y, "last bits of the answer", "soft end", 11)
    picture.text(770, y, "off the exact one, in units of 2 to the -23", "soft", 11)
    for i, (how, words) in enumerate(rows):
        at = y + 26 * (i + 1)
        found = answer(how) - Fraction(float(C))
        off = (answer(how) - answer(EXACT)) / unit
        picture.text(LEFT - 24, at, how.name, "ink bold end", 13)
        picture.text(LEFT, at, words)
        picture.text(740, at, f"{int(found / unit) % 4096:012b}", "mono ink end", 12)
        picture.text(770, at, f"{int(off):+d}" if off else "0", "mono ink bold", 12)
        for step in range(abs(int(off))):
            fill = KEPT if off > 0 else DROPPED
            picture.rect(806 + step * 26, at - 7, 24, 14, fill, radius=3)
