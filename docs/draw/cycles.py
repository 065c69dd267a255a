"""The timeline: when the instructions of one WMMA, of several, and of several warps are done."""

from __future__ import annotations

from docs.draw.svg import SERIES, Picture
from intrinsics.volta import timing
from intrinsics.volta.hmma import F16, F32, SETS, Form, program
from intrinsics.volta.timing import TIMING

LEFT, RIGHT, ROW = 96, 40, 15
#: Pixels of a cycle where one WMMA is shown, and where several are.
WIDE, NARROW = 13.0, 6.5
#: Of several: how many warps, how many WMMAs of each; and for how long they are shown.
SEVERAL, SHOWN = ((1, 3), (2, 2), (4, 1)), 132


def timeline() -> str:
    picture = Picture(LEFT + 68 * WIDE + RIGHT, 950, "When the instructions are done")
    picture.text(24, 34, "Cycles", "ink bold", 20)
    words = (
        "A bar: from the issue of an instruction until its result can be read; at its end the "
        "cycle that was measured. For the first part of it, in full",
        "colour, it keeps the tensor cores busy. A set begins when the first accumulators of the "
        "one before are there. Why the last takes longer (?) is not known.",
    )
    for i, line in enumerate(words):
        picture.text(24, 62 + 18 * i, line, "soft")
    y = 112.0
    for form in (F32, F16):
        y = _one(picture, form, y) + 40
    _several(picture, F32, y)
    return str(picture)


def _one(picture: Picture, form: Form, y: float) -> float:
    """One WMMA; gives where it ends."""
    rows = len(program(form).instructions)
    accumulator = form.accumulator.dtype
    picture.text(24, y, f"One WMMA, {accumulator} accumulators", "ink bold", 14)
    y += 18
    _axis(picture, y, y + rows * ROW, WIDE, range(0, 66, 10))
    issues, completes = TIMING[form].issues(), TIMING[form].completes()
    for i, instruction in enumerate(program(form).instructions):
        at = instruction.set - 1, instruction.step
        start, end = LEFT + issues[at] * WIDE, LEFT + completes[at] * WIDE
        top, fill = y + i * ROW, SERIES[instruction.set - 1]
        if instruction.step == 0:
            picture.text(24, top + ROW / 2, f"set {instruction.set}", "ink", 11)
        picture.text(LEFT - 10, top + ROW / 2, f"step {instruction.step}", "soft end", 10)
        picture.rect(start, top + 2, end - start, ROW - 4, fill, opacity=0.55)
        picture.rect(start, top + 2, TIMING[form].busy * WIDE, ROW - 4, fill)
        picture.text(end + 6, top + ROW / 2, f"{timing.completes(instruction)}", "ink bold", 11)
    last = LEFT + (completes[-1, -1] - TIMING[form].drain) * WIDE
    top = y + (rows - 1) * ROW + 2
    picture.rect(last, top, TIMING[form].drain * WIDE, ROW - 4, "pale")
    picture.text(LEFT + completes[-1, -1] * WIDE + 26, top + 5.5, "?", "alarm bold", 12)
    return y + rows * ROW + 20


def _several(picture: Picture, form: Form, y: float) -> None:
    picture.text(24, y, "Several WMMAs, several warps on one sub-core", "ink bold", 14)
    words = (
        f"When the tensor cores are busy, {form.accumulator.dtype} accumulators; a colour for each "
        "WMMA. What one warp leaves idle, another can use:",
        "that it does is an assumption. The figures are those of every further WMMA of a warp.",
    )
    for i, line in enumerate(words):
        picture.text(24, y + 24 + 18 * i, line, "soft")
    y += 68
    for warps, wmmas in SEVERAL:
        y = _warps(picture, form, warps, wmmas, y) + 22
    _axis(picture, y - 18, y - 18, NARROW, range(0, SHOWN, 10))


def _warps(picture: Picture, form: Form, warps: int, wmmas: int, y: float) -> float:
    """A row for each warp, and one for the tensor cores that they share; gives where it ends."""
    line = timing.timeline(form, warps, wmmas)
    each = (timing.timeline(form, warps, wmmas + 1).cycles - line.cycles) / warps
    busy = TIMING[form].busy
    share = SETS * form.steps * busy / each
    words = f"{warps} warp{'s' * (warps > 1)}: {each:g} cycles a WMMA, busy {share:.0%} of the time"
    picture.text(LEFT, y, words)
    tops = [y + 12 + (ROW - 1) * i for i in range(warps + 1)]
    names = [f"warp {warp}" for warp in range(warps)] + ["tensor cores"]
    for name, top in zip(names, tops, strict=True):
        picture.text(LEFT - 10, top + 6, name, "soft end", 10)
        picture.rect(LEFT, top, SHOWN * NARROW, ROW - 3, "empty")
    for warp in range(warps):
        for wmma in range(wmmas):
            fill = SERIES[(warp * wmmas + wmma) % len(SERIES)]
            for issue in line.issues[warp, wmma].ravel().tolist():
                for top in (tops[warp], tops[-1]):
                    x = LEFT + issue * NARROW
                    picture.rect(x + 0.5, top, busy * NARROW - 1, ROW - 3, fill)
    return tops[-1] + ROW


def _axis(picture: Picture, top: float, bottom: float, wide: float, cycles: range) -> None:
    ends = [(LEFT + i * wide, top, LEFT + i * wide, bottom + 4) for i in cycles]
    picture.lines(ends, "axis", 0.75)
    for i in cycles:
        picture.text(LEFT + i * wide, bottom + 12, str(i), "soft middle", 10)
