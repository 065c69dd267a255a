"""The knobs of the WGMMA kernel: what they are, which fit, and which to start from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from intrinsics import wgmma
from intrinsics.dtypes import FP16, FP32
from intrinsics.record import TensorIntrinsic
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.errors import ConfigError, passes, require_none
from schedules.machine.gpus import H200
from schedules.machine.hardware import Hardware

#: Registers that a thread has beside its sums: addresses, loop counters, one piece of epilogue.
REGISTERS_BESIDE_SUMS = 56
#: Columns of the pieces in which a tile leaves through shared memory.
PIECES = (64, 32, 16)
#: What rounding a base to 1024 bytes and the barriers can take.
SPARE_BYTES = 1024
#: Columns that pad a row of fp32 sums in shared memory, against bank conflicts.
SUMS_PAD = 4
#: Of the card that the grid and the clusters are sized for; with others they are right, and slower.
MULTIPROCESSORS = H200.multiprocessors


def depth(w: ConvWorkload) -> int:
    """Channels of one step of the reduction: a row of 128, 64 or 32 bytes in shared memory.

    The widest that pads C by a third at most. It depends on C alone, so that the packed weight is
    the same array for every batch and every configuration.
    """
    for channels in (64, 32):
        if 3 * round_up(w.c, channels) <= 4 * w.c:
            return channels
    return 16


@dataclass(frozen=True)
class WgmmaConfig:
    """A block computes a tile of (`rows`, `columns`) outputs: `warpgroups` consumers of
    `fragments` x 64 rows each, and one producer that keeps `stages` steps in flight."""

    warpgroups: int = 2
    fragments: int = 1
    columns: int = 128
    stages: int = 4
    #: Blocks of a cluster that share the reduction of one tile.
    split: int = 1
    #: Blocks that a multiprocessor holds at once.
    resident: int = 1

    @property
    def rows(self) -> int:
        return self.warpgroups * self.fragments * wgmma.M

    @property
    def threads(self) -> int:
        """The consumers', and the producer's warpgroup, of which one thread works."""
        return (self.warpgroups + 1) * wgmma.WARPGROUP

    @property
    def sums(self) -> int:
        """fp32 registers of a consumer thread that hold its part of the tile."""
        return self.fragments * self.columns // 2

    @property
    def piece(self) -> int:
        """Columns that leave through shared memory at a time."""
        return next((p for p in PIECES if self.columns % p == 0), 0)

    def __str__(self) -> str:
        text = f"{self.rows}x{self.columns}, {self.warpgroups} warpgroups, {self.stages} stages"
        text += f", split {self.split}" if self.split > 1 else ""
        return text + (f", {self.resident} blocks" if self.resident > 1 else "")


def corners(w: ConvWorkload) -> tuple[int, int, int, int]:
    """Of the box that a copy's first pixels stay in, relative to the image: its lower (W, H), then
    its upper (W, H) from the image's last pixel."""
    top, left, bottom, right = w.padding
    down, across = w.dilation[0] * (w.r - 1), w.dilation[1] * (w.s - 1)
    return -left, -top, right - across, bottom - down


@dataclass(frozen=True)
class Plan:
    """A workload and a configuration in numbers: extents, and where things lie in shared memory.

    The reduction runs over taps x `chunks` steps of `depth` channels.
    """

    w: ConvWorkload
    config: WgmmaConfig

    @property
    def instruction(self) -> TensorIntrinsic:
        """The wgmma instruction that multiplies."""
        return wgmma.get(self.config.columns, FP16.name, FP32.name)

    @property
    def depth(self) -> int:
        return depth(self.w)

    @property
    def chunks(self) -> int:
        return ceil_div(self.w.c, self.depth)

    @property
    def steps(self) -> int:
        return self.w.r * self.w.s * self.chunks

    @property
    def m(self) -> int:
        return self.w.n * self.w.p * self.w.q

    @property
    def k_packed(self) -> int:
        """Rows of the packed weight: whole swizzles."""
        return round_up(self.w.k, wgmma.SWIZZLE_ROWS)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.w.r * self.w.s, self.chunks, self.k_packed, self.depth)

    @property
    def tiles_k(self) -> int:
        return ceil_div(self.w.k, self.config.columns)

    @property
    def tiles(self) -> int:
        return ceil_div(self.m, self.config.rows) * self.tiles_k

    @property
    def clustered(self) -> bool:
        """Whether every tile has a cluster of its own, whose blocks add their sums up through
        shared memory and write without the copy engine; else blocks take tile after tile."""
        return self.config.split > 1 or bool(self.engine_problems)

    @property
    def engine_problems(self) -> list[str]:
        """Why the copy engine can't write the output (or read the residual)."""
        w, window = self.w, self.w.window
        problems = []
        if w.epilogue.out_dtype != "float16":
            problems.append(f"{w.epilogue.out_dtype} output")
        if w.k % 8:
            problems.append("output channels no multiple of 8")
        if window is not None:
            whole = (window.rows, window.columns) == (w.p, w.q)
            if not whole or window.shuffle > 1 or window.channels % 8 or window.channel % 8:
                problems.append("the output is a scattered part of a tensor")
        return problems

    @property
    def grid(self) -> int:
        if self.clustered:
            return self.tiles * self.config.split
        return min(self.tiles, MULTIPROCESSORS * self.config.resident)

    @property
    def row_bytes(self) -> int:
        return self.depth * 2

    @property
    def a_bytes(self) -> int:
        return self.config.rows * self.row_bytes

    @property
    def b_bytes(self) -> int:
        return self.config.columns * self.row_bytes

    @property
    def b_at(self) -> int:
        return self.config.stages * self.a_bytes

    @property
    def ring_bytes(self) -> int:
        return self.config.stages * (self.a_bytes + self.b_bytes)

    @property
    def piece_bytes(self) -> int:
        return wgmma.M * self.config.piece * 2

    @property
    def pieces_at(self) -> int:
        """Two buffers for each consumer, in which pieces of its tile become fp16 and leave."""
        return round_up(self.ring_bytes, 1024)

    @property
    def sums_width(self) -> int:
        return self.config.columns + SUMS_PAD

    @property
    def barriers_at(self) -> int:
        if self.clustered:
            # The sums lie where the stages were.
            return max(self.ring_bytes, self.config.rows * self.sums_width * 4)
        return self.pieces_at + self.config.warpgroups * 2 * self.piece_bytes

    @property
    def barriers(self) -> int:
        """Full and empty for each stage, and one for each buffer of a residual's piece."""
        return 2 * self.config.stages + 2 * self.config.warpgroups

    @property
    def shared_bytes(self) -> int:
        return self.barriers_at + 8 * self.barriers

    @property
    def flat(self) -> bool:
        """Whether every input pixel is an output's, in order: the gather is a matrix's rows."""
        w = self.w
        return w.r == w.s == 1 and w.stride == (1, 1) and not any(w.padding)


def check(w: ConvWorkload, config: WgmmaConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every rule of workload or hardware that `config` breaks."""
    knobs = (config.warpgroups, config.fragments, config.stages, config.split, config.resident)
    if min(*knobs, config.columns) < 1:
        raise ConfigError(f"{config}: every knob is at least 1")
    plan, problems = Plan(w, config), []
    if config.columns % 16 or config.columns > wgmma.MAX_N:
        problems.append(f"{config.columns} columns, the instruction has 16, 32, ... {wgmma.MAX_N}")
    if config.rows > 256:
        problems.append(f"{config.rows} rows, the copy engine moves 256 at most")
    if config.split not in (1, 2, 4, 8):
        problems.append(f"a cluster has 1, 2, 4 or 8 blocks, not {config.split}")
    if config.split > plan.steps:
        problems.append(f"{plan.steps} steps can't be split among {config.split}")
    if plan.clustered and config.rows * config.columns // 8 % config.split:
        problems.append("the blocks of a cluster do not share the tile evenly")
    needed = config.resident * (plan.shared_bytes + SPARE_BYTES)
    if needed > hardware.shared_bytes + SPARE_BYTES:
        problems.append(f"{needed} bytes of shared memory, there are {hardware.shared_bytes}")
    if config.threads * config.resident > 2048 or config.threads > hardware.max_threads:
        problems.append(f"{config.resident} blocks of {config.threads} threads")
    if config.columns // 2 + REGISTERS_OF_ONE > share(config):
        problems.append(f"one instruction of {config.columns} columns takes more than a share")
    available = registers(config)
    if config.sums + REGISTERS_BESIDE_SUMS > available:
        problems.append(f"{config.sums} sums a thread, which has {available} registers")
    require_none(problems, config, w, hardware.name)


#: Of a multiprocessor; what a producer keeps of them; and the most that a thread can have.
REGISTERS, PRODUCER_REGISTERS, MOST_REGISTERS = 65536, 24, 240
#: What ptxas wants beside one instruction's sums (its error C7602), and of the first share at that,
#: whatever is asked for later.
REGISTERS_OF_ONE = 26


def registers(config: WgmmaConfig) -> int:
    """What a consumer thread has: its share, and what the producers give away if it needs more.

    Never more than that: whoever asks for registers that are not there waits for ever.
    """
    if not exchanges_registers(config):
        return min(share(config), MOST_REGISTERS)
    given = (share(config) - PRODUCER_REGISTERS) // config.warpgroups // 8 * 8
    return min(share(config) + given, MOST_REGISTERS)


def share(config: WgmmaConfig) -> int:
    """Registers that each thread of a block starts with."""
    return REGISTERS // config.resident // config.threads // 8 * 8


def exchanges_registers(config: WgmmaConfig) -> bool:
    """Whether the consumers need registers of the producers."""
    return config.sums > 64


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[WgmmaConfig]:
    """Every configuration worth trying that passes `check`."""
    for (groups, fragments), columns, stages, split, resident in itertools.product(
        ((1, 1), (2, 1), (3, 1), (1, 2), (2, 2)),
        columns_worth(w.k),
        (4, 6, 8, 3),
        (1, 2, 4, 8),
        (1, 2),
    ):
        config = WgmmaConfig(groups, fragments, columns, stages, split, resident)
        if split > 1 and (resident > 1 or Plan(w, config).tiles * split > 2 * MULTIPROCESSORS):
            continue
        if fits(w, config, hardware):
            yield config


def columns_worth(k: int) -> list[int]:
    """Tile widths that cut K into even parts, and powers of two; those that leave in pieces of 16
    columns only where one tile has all of K."""
    even = {round_up(ceil_div(k, parts), 16) for parts in range(1, ceil_div(k, 32) + 1)}
    whole = round_up(k, 16)
    wide = {c for c in even | {32, 64, 128, 256} if c % 32 == 0 or c == whole}
    candidates = {c for c in wide if c <= min(wgmma.MAX_N, round_up(whole, 32))}
    return sorted(candidates, reverse=True)


def fits(w: ConvWorkload, config: WgmmaConfig, hardware: Hardware) -> bool:
    return passes(check, w, config, hardware)
