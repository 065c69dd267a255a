"""A workload and a configuration of the depthwise kernel of dp4a, in numbers.

Of an input row a thread loads `width` columns. Transposed, a register holds four columns of one
channel: quad j those from column 2 j on. The taps of a filter row are packed to meet a quad,

    lead 0    w0 w1 w2 w3    w4 ...        for outputs whose first column is even
    lead 1     0 w0 w1 w2    w3 w4 ...     for those whose first column is odd

and the rest of a piece is zeros. So an output whose first column is o takes, of each filter row,
the pieces k of lead o % 2, each times quad o // 2 + 2 k: one instruction each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.families.depthwise_dp4a.config import DepthwiseDp4aConfig

#: Bytes of a register: channels of a word, and columns of a quad.
QUAD = 4
#: Registers of a thread for addresses and predicates, and for what is between instructions.
OTHER_REGISTERS = 36


@dataclass(frozen=True)
class Plan:
    """Numbers that follow from a workload and a configuration."""

    w: ConvWorkload
    config: DepthwiseDp4aConfig

    # ---------------------------------------------------------------- tiles

    @property
    def channels(self) -> int:
        """Channels of a thread."""
        return QUAD * self.config.words

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Tiles of an image: downwards, across, along the channels."""
        w, config = self.w, self.config
        return ceil_div(w.p, config.rows), ceil_div(w.q, config.columns), w.c // self.channels

    @property
    def total(self) -> int:
        """Threads that have a tile."""
        down, across, along = self.tiles
        return self.w.n * down * across * along

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return ceil_div(self.total, self.config.threads)

    # ---------------------------------------------------------------- what a thread reads

    @property
    def height(self) -> int:
        """Input rows of a thread."""
        w = self.w
        return (self.config.rows - 1) * w.stride[0] + (w.r - 1) * w.dilation[0] + 1

    def read(self, row: int) -> list[int]:
        """The input rows that one of the tile's output rows reads, both as numbers in the tile."""
        w = self.w
        return [row * w.stride[0] + r * w.dilation[0] for r in range(w.r)]

    @property
    def width(self) -> int:
        """Input columns of a thread."""
        return (self.config.columns - 1) * self.w.stride[1] + self.w.s

    def pieces(self, lead: int) -> int:
        """Registers of the taps of a filter row with this lead."""
        return ceil_div(lead + self.w.s, QUAD)

    @cached_property
    def packings(self) -> tuple[tuple[int, int], ...]:
        """(lead, piece) of the registers that the packed weight has of each filter row."""
        leads = (0,) if self.w.stride[1] % 2 == 0 else (0, 1)
        return tuple((lead, piece) for lead in leads for piece in range(self.pieces(lead)))

    def terms(self, column: int) -> list[tuple[int, int]]:
        """For each instruction of a filter row for this output column: the number of its packing,
        and its quad."""
        first = column * self.w.stride[1]
        lead = first % 2
        return [
            (self.packings.index((lead, piece)), first // 2 + 2 * piece)
            for piece in range(self.pieces(lead))
        ]

    @cached_property
    def used(self) -> tuple[int, ...]:
        """Numbers of the packings that some output column of a thread meets."""
        columns = range(self.config.columns)
        return tuple(sorted({packing for q in columns for packing, _ in self.terms(q)}))

    @cached_property
    def quads(self) -> tuple[int, ...]:
        """The quads that some output column of a thread meets."""
        columns = range(self.config.columns)
        return tuple(sorted({quad for q in columns for _, quad in self.terms(q)}))

    @property
    def pairs(self) -> int:
        """Pairs of adjacent columns."""
        return ceil_div(self.width, 2)

    # ---------------------------------------------------------------- operands

    @cached_property
    def signature(self) -> Signature:
        """The operands; of the weight, four bytes are a register: for each word of channels and
        filter row the packings, each of four channels."""
        w = self.w
        return Signature.of(w, (w.c // QUAD, w.r, len(self.packings), QUAD, QUAD))

    @property
    def taps(self) -> int:
        """Registers of the taps."""
        return self.w.r * len(self.used) * self.channels

    @property
    def registers(self) -> int:
        """Registers of a thread, about as ptxas allocates: taps, bias and scales of each channel,
        the quads of a filter's rows, and the next row as it was loaded."""
        w = self.w
        rows = min(self.height, (w.r - 1) * w.dilation[0] + 1)
        quads = rows * len(self.quads) * self.channels
        epilogue = (1 + len(w.precision.scales)) * self.channels
        return self.taps + epilogue + quads + self.width * self.config.words + OTHER_REGISTERS

    @property
    def weight_words(self) -> tuple[int, ...]:
        """Shape of the packed weight in registers."""
        return self.signature[WEIGHT].shape[:-1]
