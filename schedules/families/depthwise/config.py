"""Configurations of the depthwise family: the knobs, the check, the space and the default."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.errors import ConfigError, require_none
from schedules.expressions.backend import CPU_VECTOR, access_elements, vector_width
from schedules.machine.hardware import Hardware

#: Loops over up to so many filter rows or columns are unrolled; such a row is loaded at once.
UNROLLED = 7
#: Registers of a thread for addresses and predicates, roughly as nvcc allocates.
OTHER_REGISTERS = 40
#: On a CPU, TVM keeps smaller buffers on the stack and allocates others on the heap each time.
STACK_BYTES = 1024
#: Threads that fill an H200 many times over, one for each pixel and vector of channels.
MANY_THREADS = 1 << 17
#: With fewer threads an H200 waits for memory, so tiles are made smaller.
ENOUGH_THREADS = 1 << 15
#: Columns of the largest image whose rows are short, so that a block takes several rows.
SMALL_IMAGE = 28


@dataclass(frozen=True)
class DepthwiseConfig:
    """A thread computes ``vector`` adjacent channels of ``rows`` x ``columns`` pixels.

    A GPU block is ``lanes`` threads along the channels by ``across`` by ``down`` tiles of pixels.
    """

    vector: int = 1
    columns: int = 1
    rows: int = 1
    lanes: int = 1
    across: int = 1
    down: int = 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.lanes * self.across * self.down

    def __str__(self) -> str:
        text = f"{self.rows}x{self.columns} pixels of {self.vector} channels"
        if self.threads == 1:
            return text
        return f"{text}, {self.down}x{self.across} tiles of {self.lanes} threads"


# ---------------------------------------------------------------- configurations


def by_row(w: ConvWorkload) -> bool:
    """Returns True if a thread loads the input of a filter row at once, else tap by tap."""
    return w.dilation[1] == 1 and w.s <= UNROLLED


def patch_vectors(w: ConvWorkload, config: DepthwiseConfig) -> int:
    """Returns the number of input vectors that a thread holds at a time."""
    width = (config.columns - 1) * w.stride[1] + (w.s if by_row(w) else 1)
    height = (config.rows - 1) * w.stride[0] + 1
    return height * width


def adjacent(w: ConvWorkload) -> int:
    """Returns a number that divides each run of adjacent channels in the input and output."""
    return math.gcd(w.c, w.window.adjacent if w.window else 0)


def padded_pixels(w: ConvWorkload, config: DepthwiseConfig) -> tuple[int, int]:
    """Returns P and Q, rounded up to whole blocks."""
    p_pad = round_up(w.p, config.rows * config.down)
    return p_pad, round_up(w.q, config.columns * config.across)


def registers(w: ConvWorkload, config: DepthwiseConfig) -> int:
    """Returns the 32-bit registers of a GPU thread.

    Accumulators of 32 bits, patch and taps packed, and `OTHER_REGISTERS`.
    """
    sums = config.rows * config.columns * config.vector
    loaded = patch_vectors(w, config) + (w.s if by_row(w) else 1)
    packed = max(2, dtypes.get(w.precision.x).per_register)
    return sums + ceil_div(loaded * config.vector, packed) + OTHER_REGISTERS


def _cpu_problems(w: ConvWorkload, config: DepthwiseConfig) -> Iterator[str]:
    if config.threads > 1:
        yield f"{config.threads} threads, but a CPU's blocks have one"
    sums = 4 * config.rows * config.columns * config.vector
    patch = dtypes.get(w.precision.x).bytes * patch_vectors(w, config) * config.vector
    for name, size in (("accumulators", sums), ("patch", patch)):
        if size >= STACK_BYTES:
            yield f"{size} bytes of {name}, TVM's stack takes less than {STACK_BYTES}"


def check(w: ConvWorkload, config: DepthwiseConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` with every rule of the workload or hardware that `config` breaks."""
    knobs = (config.vector, config.columns, config.rows, config.lanes, config.across, config.down)
    if min(knobs) < 1:
        require_none(["every knob is at least 1"], config, w, hardware.name)
    problems = []
    widest = access_elements(w.precision.x) if hardware.kind == "cuda" else CPU_VECTOR
    if vector_width(config.vector, widest) != config.vector:
        problems.append(f"a vector of {config.vector} is not a power of two up to {widest}")
    if adjacent(w) % config.vector:
        problems.append(f"a vector of {config.vector} channels is not contiguous in memory")
    if w.c % (config.vector * config.lanes):
        problems.append(f"{w.c} channels are not a multiple of {config.vector} x {config.lanes}")
    if hardware.kind == "cuda":
        needed = registers(w, config)
        problems += hardware.exceeded(config.threads, registers=needed, depth=config.down)
    else:
        problems += _cpu_problems(w, config)
    require_none(problems, config, w, hardware.name)


def _fits(w: ConvWorkload, config: DepthwiseConfig, hardware: Hardware) -> bool:
    try:
        check(w, config, hardware)
    except ConfigError:
        return False
    return True


def even(extent: int, most: int) -> int:
    """Returns the size of tiles when there are as few as `most` allows, all of about equal size."""
    return ceil_div(extent, ceil_div(extent, most))


def _block(w: ConvWorkload, config: DepthwiseConfig, threads: int) -> DepthwiseConfig:
    """Returns the tile with a block of about `threads`: lanes, tiles of a row, rows.

    For a small image the lanes take up to 128 bytes of channels, to leave threads for rows, which
    share input.
    """
    vectors = w.c // config.vector
    most = max(1, 64 // config.vector) if w.q <= SMALL_IMAGE else 32
    lanes = next(lanes for lanes in range(min(most, vectors), 0, -1) if vectors % lanes == 0)
    across = even(ceil_div(w.q, config.columns), max(1, threads // lanes))
    down = even(ceil_div(w.p, config.rows), min(64, max(1, threads // (lanes * across))))
    return DepthwiseConfig(config.vector, config.columns, config.rows, lanes, across, down)


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[DepthwiseConfig]:
    """Yields every configuration worth trying, each already checked; wide vectors first."""
    on_gpu = hardware.kind == "cuda"
    vector = vector_width(adjacent(w), access_elements(w.precision.x) if on_gpu else CPU_VECTOR)
    seen = set()
    for width in (vector, vector // 2, vector // 4):
        for rows, columns in ((1, 8), (1, 4), (1, 2), (1, 1), (2, 2), (2, 4)):
            if width == 0 or rows > w.p:
                continue
            tile = DepthwiseConfig(width, even(w.q, columns), rows)
            for threads in (128, 64, 256) if on_gpu else (1,):
                config = _block(w, tile, threads) if on_gpu else tile
                if config not in seen and _fits(w, config, hardware):
                    seen.add(config)
                    yield config


def default(w: ConvWorkload, hardware: Hardware) -> DepthwiseConfig:
    """Returns the default: the widest tile on a CPU, the result of a sweep on a GPU.

    The sweep was over MobileNets' layers on an H200; thresholds scale with the multiprocessors.
    With many pixels it takes wide vectors and 4 columns, or 8 for small images. If the threads do
    not fill the GPU it takes narrow vectors, and columns only while there are enough threads.
    """
    one_row = [config for config in space(w, hardware) if config.rows == 1]
    widest = [config for config in one_row if config.vector == one_row[0].vector]
    if hardware.kind != "cuda":
        return widest[0]
    vectors = w.n * w.p * w.c // widest[0].vector
    if vectors * w.q >= hardware.card.scaled(MANY_THREADS):
        most = 8 if w.q <= SMALL_IMAGE else 4
        return next(config for config in widest if config.columns <= most)
    narrow = min(config.vector for config in one_row)
    found = [config for config in one_row if config.vector == narrow and config.columns <= 4]
    rows = w.n * w.p * w.c // narrow
    enough = hardware.card.scaled(ENOUGH_THREADS)
    filling = [c for c in found if rows * ceil_div(w.q, c.columns) >= enough]
    return filling[0] if filling else next(c for c in found if c.columns == 1)
